//! The machine itself: it boots, keeps what it wrote over a reboot, and two stand side by side.

use crate::machine::Machine;

#[test]
#[ignore = "needs root and systemd-nspawn"]
fn box_boots_and_keeps_its_disk() {
    let mut machine = Machine::boot();
    assert_eq!(machine.ok(&["systemctl", "is-system-running"]).trim(), "running");
    let refused = machine.run(&["sh", "-c", "echo why >&2; exit 7"]);
    assert_eq!((refused.code, refused.err.as_str()), (7, "why\n"));
    assert_eq!(machine.with_input(&["cat"], b"said").out, "said");
    machine.ok(&["sh", "-c", "echo kept > /var/lib/kept; echo gone > /run/gone"]);
    let other = Machine::boot();
    assert_ne!(other.run(&["test", "-e", "/var/lib/kept"]).code, 0, "a machine of its own");
    machine.boot_again();
    assert_eq!(machine.ok(&["cat", "/var/lib/kept"]), "kept\n");
    assert_ne!(machine.run(&["test", "-e", "/run/gone"]).code, 0);
}
