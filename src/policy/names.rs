//! Users and groups by name. Asked when policy is loaded, at issue and at list; never on the way of a validation, where a
//! directory service that hangs would hang the daemon.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Group, Uid, User};

/// Looks names up.
pub trait Names: Send + Sync {
    /// The uid of a user; `None` when there is no such user.
    ///
    /// # Errors
    /// The directory can't be asked now.
    fn uid_of(&self, user: &str) -> io::Result<Option<u32>>;

    /// The gid of a group; `None` when there is no such group.
    ///
    /// # Errors
    /// The directory can't be asked now.
    fn gid_of(&self, group: &str) -> io::Result<Option<u32>>;

    /// The name of a user; `None` when it has none.
    ///
    /// # Errors
    /// The directory can't be asked now.
    fn user_of(&self, uid: u32) -> io::Result<Option<String>>;
}

/// The names that the system knows (NSS). May wait for the network: not from the event loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Names for SystemNames {
    fn uid_of(&self, user: &str) -> io::Result<Option<u32>> {
        found(User::from_name(user)).map(|user| user.map(|user| user.uid.as_raw()))
    }

    fn gid_of(&self, group: &str) -> io::Result<Option<u32>> {
        found(Group::from_name(group)).map(|group| group.map(|group| group.gid.as_raw()))
    }

    fn user_of(&self, uid: u32) -> io::Result<Option<String>> {
        found(User::from_uid(Uid::from_raw(uid))).map(|user| user.map(|user| user.name))
    }
}

/// getpwnam(3): these errors, too, say that there is no such entry.
fn found<T>(answer: Result<Option<T>, Errno>) -> io::Result<Option<T>> {
    match answer {
        Ok(entry) => Ok(entry),
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
pub(super) mod fake {
    use super::*;

    /// Names of a test; `broken` is a directory that does not answer.
    #[derive(Default)]
    pub(in crate::policy) struct FakeNames {
        pub(in crate::policy) users: Vec<(&'static str, u32)>,
        pub(in crate::policy) groups: Vec<(&'static str, u32)>,
        pub(in crate::policy) broken: bool,
    }

    impl FakeNames {
        fn ask(&self, list: &[(&'static str, u32)], wanted: &str) -> io::Result<Option<u32>> {
            if self.broken {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            Ok(list.iter().find(|(name, _)| *name == wanted).map(|&(_, number)| number))
        }
    }

    impl Names for FakeNames {
        fn uid_of(&self, user: &str) -> io::Result<Option<u32>> {
            self.ask(&self.users, user)
        }

        fn gid_of(&self, group: &str) -> io::Result<Option<u32>> {
            self.ask(&self.groups, group)
        }

        fn user_of(&self, uid: u32) -> io::Result<Option<String>> {
            Ok(self.users.iter().find(|(_, number)| *number == uid).map(|(name, _)| (*name).to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_root_and_not_everybody() {
        assert_eq!(SystemNames.uid_of("root").unwrap(), Some(0));
        assert_eq!(SystemNames.gid_of("root").unwrap(), Some(0));
        assert_eq!(SystemNames.user_of(0).unwrap().as_deref(), Some("root"));
        assert_eq!(SystemNames.uid_of("no-such-user-here").unwrap(), None);
        assert_eq!(SystemNames.gid_of("no-such-group-here").unwrap(), None);
    }
}
