//! Tokens come in here: from standard input or a file, the first line of it. And the recovery key of `bearerd recover`.
//!
//! Invariant I3: what is read stays in one buffer that is wiped; on a terminal it is not echoed.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use zeroize::{Zeroize, Zeroizing};

use crate::ctl::console::Console;
use crate::ctl::error::CtlError;
use crate::token::TEXT_MAX;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const BACKSPACES: [u8; 2] = [0x08, 0x7F];

/// A token's text as it was given; not yet looked at. Wiped when dropped.
pub(super) type TokenText = Zeroizing<String>;

/// Reads the token from `file`, or from standard input without one or for `-`.
///
/// # Errors
/// [`CtlError::NoToken`] for nothing at all, [`CtlError::BadToken`] for what can't be one, [`CtlError::Read`].
pub(super) fn token(file: Option<&Path>, console: &mut Console) -> Result<TokenText, CtlError> {
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let unreadable = |source| CtlError::Read { path: path.to_owned(), source };
            let mut file = File::open(path).map_err(unreadable)?;
            first_line(&mut file, &path.display().to_string(), unreadable)
        }
        None => {
            let stdin = io::stdin();
            let unreadable = |source| CtlError::Read { path: "standard input".into(), source };
            // Past std's own buffer, which is not wiped.
            let mut input = File::from(stdin.as_fd().try_clone_to_owned().map_err(unreadable)?);
            if stdin.is_terminal() {
                console.say("Token (not shown): ");
                let read = hidden_line(&mut input, unreadable);
                console.say("\n");
                read
            } else {
                first_line(&mut input, "standard input", unreadable)
            }
        }
    }
}

/// Reads what `bearerd recover` asks for: on a terminal one line, which is not echoed, else standard input to its end, for a
/// recovery key may be wrapped. Empty when there is nothing, or Ctrl-C.
///
/// # Errors
/// That of reading; `InvalidData` for what is no text or longer than any recovery key.
pub(crate) fn recovery_key(prompt: &str) -> io::Result<Zeroizing<String>> {
    let stdin = io::stdin();
    let mut input = File::from(stdin.as_fd().try_clone_to_owned()?);
    if !stdin.is_terminal() {
        let mut bytes = Zeroizing::new(Vec::with_capacity(TEXT_MAX + 1));
        input.take(TEXT_MAX as u64 + 1).read_to_end(&mut bytes)?;
        let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= TEXT_MAX);
        return text.map(|text| Zeroizing::new(text.to_owned())).ok_or_else(|| io::ErrorKind::InvalidData.into());
    }
    let mut console = Console::of_process();
    console.say(prompt);
    let line = hidden_line(&mut input, CtlError::Output);
    console.say("\n");
    match line {
        Ok(line) => Ok(line),
        Err(CtlError::Output(error)) => Err(error),
        Err(CtlError::NoToken(_) | CtlError::Interrupted) => Ok(Zeroizing::default()),
        Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The bytes up to the first line feed, without it and a carriage return before it. Reads no further than a token can
/// be long: the rest of an endless stream is nobody's token.
fn first_line(
    input: &mut impl Read,
    name: &str,
    unreadable: impl Fn(io::Error) -> CtlError,
) -> Result<TokenText, CtlError> {
    let mut buffer = Zeroizing::new([0u8; TEXT_MAX + 2]);
    let mut len = 0;
    let end = loop {
        if let Some(end) = buffer[..len].iter().position(|&c| c == b'\n') {
            break end;
        }
        if len == buffer.len() {
            return Err(CtlError::BadToken(name.to_owned()));
        }
        match input.read(&mut buffer[len..]) {
            Ok(0) if len == 0 => return Err(CtlError::NoToken(name.to_owned())),
            Ok(0) => break len,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    };
    let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
    text(line, name)
}

fn text(line: &[u8], name: &str) -> Result<TokenText, CtlError> {
    match std::str::from_utf8(line) {
        Ok(line) if line.len() <= TEXT_MAX => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(CtlError::BadToken(name.to_owned())),
    }
}

/// The terminal as it was, put back when dropped.
struct Unechoed<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Unechoed<'a> {
    /// Neither echo, nor lines, nor signals: Ctrl-C must not leave a terminal without echo behind, so it is read as a
    /// character and answered here.
    fn new(terminal: BorrowedFd<'a>) -> nix::Result<Self> {
        let before = termios::tcgetattr(terminal)?;
        let mut without = before.clone();
        without.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        without.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        without.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        // What was typed ahead of the prompt was echoed: it is dropped.
        termios::tcsetattr(terminal, SetArg::TCSAFLUSH, &without)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unechoed<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// A line typed on a terminal, without echo. Backspace and Ctrl-U work, Ctrl-C and an empty Ctrl-D end it.
fn hidden_line(terminal: &mut File, unreadable: impl Fn(io::Error) -> CtlError) -> Result<TokenText, CtlError> {
    let handle = terminal.try_clone().map_err(&unreadable)?;
    let _unechoed = Unechoed::new(handle.as_fd()).map_err(|errno| unreadable(errno.into()))?;
    let mut line = Zeroizing::new(Vec::with_capacity(TEXT_MAX + 1));
    let mut byte = Zeroizing::new([0u8; 1]);
    loop {
        match terminal.read(&mut byte[..]) {
            Ok(0) => break,
            Ok(_) => match byte[0] {
                b'\n' | b'\r' => break,
                CTRL_C => return Err(CtlError::Interrupted),
                CTRL_D if line.is_empty() => break,
                CTRL_D => {}
                CTRL_U => line.zeroize(),
                c if BACKSPACES.contains(&c) => drop(line.pop()),
                c if line.len() <= TEXT_MAX => line.push(c),
                // Longer than any token: kept one too long, so that it is refused as a whole.
                _ => {}
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if line.is_empty() {
        return Err(CtlError::NoToken("the line typed".to_owned()));
    }
    text(&line, "the terminal")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::pty::openpty;

    use super::*;

    fn line_of(input: &[u8]) -> Result<String, u8> {
        first_line(&mut &input[..], "it", CtlError::Output).map(|text| text.to_string()).map_err(|e| e.status())
    }

    #[test]
    fn the_first_line_alone_is_taken() {
        assert_eq!(line_of(b"token"), Ok("token".to_owned()));
        assert_eq!(line_of(b"token\n"), Ok("token".to_owned()));
        assert_eq!(line_of(b"token\r\nmore\n"), Ok("token".to_owned()));
        assert_eq!(line_of(b"\n"), Ok(String::new()));
        assert_eq!(line_of(b" token \n"), Ok(" token ".to_owned()));
        assert_eq!(line_of(b""), Err(64));
        assert_eq!(line_of(b"\xFF\n"), Err(65));
        assert_eq!(line_of(&[b'x'; TEXT_MAX]), Ok("x".repeat(TEXT_MAX)));
        assert_eq!(line_of(&[b'x'; TEXT_MAX + 1]), Err(65));
        assert_eq!(line_of(&[b'x'; 10 * TEXT_MAX]), Err(65));
    }

    #[test]
    fn an_endless_stream_is_not_read_to_its_end() {
        let status = first_line(&mut io::repeat(b'x'), "it", CtlError::Output).map_err(|error| error.status());
        assert_eq!(status.err(), Some(65));
    }

    /// What is typed at the prompt, and whether the terminal is then as it was.
    fn typed(keys: &'static [u8]) -> Result<String, u8> {
        let pty = openpty(None, None).unwrap();
        let mut user = File::from(pty.master);
        let mut terminal = File::from(pty.slave);
        let before = termios::tcgetattr(&terminal).unwrap();
        let watched = terminal.try_clone().unwrap();
        let typist = std::thread::spawn(move || {
            // Only what is typed after echo is off counts.
            while termios::tcgetattr(&watched).unwrap().local_flags.contains(LocalFlags::ECHO) {
                std::thread::yield_now();
            }
            user.write_all(keys).unwrap();
            user
        });
        let line = hidden_line(&mut terminal, CtlError::Output).map(|text| text.to_string());
        let mut user = typist.join().unwrap();
        assert_eq!(termios::tcgetattr(&terminal).unwrap().local_flags, before.local_flags, "put back");
        // Nothing came back to the screen but what is written now.
        terminal.write_all(b"!").unwrap();
        let mut screen = [0; 64];
        let shown = user.read(&mut screen).unwrap();
        assert_eq!(&screen[..shown], b"!", "no echo");
        line.map_err(|error| error.status())
    }

    #[test]
    fn at_a_terminal_nothing_is_echoed_and_keys_work() {
        assert_eq!(typed(b"token\r"), Ok("token".to_owned()));
        assert_eq!(typed(b"wrong\x15tokem\x7Fn\n"), Ok("token".to_owned()));
        assert_eq!(typed(b"tok\x03"), Err(130));
        assert_eq!(typed(b"\x04"), Err(64));
    }
}
