//! What someone without the key can do to a log, and that `verify` finds it and names the first bad line.

use std::io::BufRead;
use std::path::Path;

use proptest::prelude::*;

use super::super::chain::finish_line;
use super::super::verify::{Source, verify_sources};
use super::*;

struct Memory(PathBuf, Vec<u8>);

impl Source for Memory {
    fn path(&self) -> &Path {
        &self.0
    }

    fn open_at(&self, offset: u64) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(Box::new(&self.1[offset as usize..]))
    }
}

/// A log of `count` lines, each with its newline, and the seal of the last.
fn log(count: u64, key: TestKey) -> (Vec<Vec<u8>>, Seal) {
    let mut mac = Mac::GENESIS;
    let lines = (1..=count)
        .map(|seq| {
            let mut event = AuditEvent::new(EventKind::Use, NOW);
            event.name = Some(format!("backup {} of {}", seq % 7, key.0[0]));
            let mut line = Vec::new();
            event.write_body(seq, seq / 3, &mut line);
            mac = finish_line(&mut line, 0, mac, &key);
            line
        })
        .collect();
    let seal = Seal { seq: count, mac, offset: 0, inode: 0, generation: 0, at: NOW, beyond: vec![] };
    (lines, seal)
}

fn check(bytes: Vec<u8>, seal: Option<&Seal>) -> VerifyReport {
    verify_sources(&[&Memory("audit.log".into(), bytes)], &KEY, seal).unwrap()
}

fn damage(lines: &[Vec<u8>], seal: Option<&Seal>) -> Option<(u64, u64, Damage)> {
    check(lines.concat(), seal).bad.map(|bad| (bad.line, bad.seq, bad.damage))
}

#[test]
fn an_untouched_log_is_intact() {
    let (lines, seal) = log(300, KEY);
    let report = check(lines.concat(), Some(&seal));
    assert!(report.intact());
    assert_eq!((report.lines, report.first_seq, report.last_seq, report.past_seal), (300, Some(1), Some(300), 0));
    let report = check(lines.concat(), Some(&log(100, KEY).1));
    assert_eq!((report.intact(), report.past_seal), (true, 200));
}

#[test]
fn every_flipped_bit_and_every_other_byte_is_found_in_its_line() {
    let (lines, seal) = log(12, KEY);
    let whole = lines.concat();
    let line_of = |at: usize| whole[..at].iter().filter(|c| **c == b'\n').count() as u64 + 1;
    for at in 0..whole.len() {
        let line = line_of(at);
        let masks: &[u8] = if (5..=6).contains(&line) { &[1, 2, 4, 8, 16, 32, 64, 128] } else { &[1, 0x20, 0xff] };
        for mask in masks {
            let mut spoilt = whole.clone();
            spoilt[at] ^= mask;
            for seal in [Some(&seal), None] {
                let bad = check(spoilt.clone(), seal).bad.unwrap_or_else(|| panic!("byte {at} ^ {mask:#x} not found"));
                assert_eq!((bad.line, bad.seq), (line, line), "byte {at} ^ {mask:#x}: {bad:?}");
                let in_mac = lines[line as usize - 1].len() - 67 <= at - lines[..line as usize - 1].concat().len();
                if !in_mac && line < 12 {
                    assert_eq!(bad.damage, Damage::Changed, "byte {at} ^ {mask:#x}");
                }
            }
        }
    }
}

#[test]
fn a_changed_mac_is_told_from_a_changed_line() {
    let (lines, seal) = log(10, KEY);
    for k in 0..9 {
        let mut spoilt = lines.clone();
        let at = spoilt[k].len() - 4;
        spoilt[k][at] = if spoilt[k][at] == b'0' { b'1' } else { b'0' };
        assert_eq!(damage(&spoilt, Some(&seal)), Some((k as u64 + 1, k as u64 + 1, Damage::MacChanged)));
    }
}

#[test]
fn every_dropped_doubled_or_added_line_is_named() {
    let (lines, seal) = log(120, KEY);
    let (foreign, _) = log(120, TestKey([9; 32]));
    for k in 0..lines.len() {
        let place = k as u64 + 1;
        let mut dropped = lines.clone();
        dropped.remove(k);
        let what = if k + 1 == lines.len() { Damage::CutTail } else { Damage::Removed };
        assert_eq!(damage(&dropped, Some(&seal)), Some((place, place, what)), "dropped {place}");
        if k + 5 < lines.len() {
            let mut cut_out = lines.clone();
            cut_out.drain(k..k + 4);
            assert_eq!(damage(&cut_out, Some(&seal)), Some((place, place, Damage::Removed)), "dropped four at {place}");
        }
        let mut doubled = lines.clone();
        doubled.insert(k + 1, lines[k].clone());
        assert_eq!(damage(&doubled, Some(&seal)), Some((place + 1, place + 1, Damage::Duplicated)), "doubled {place}");
        let mut far = lines.clone();
        far.insert(k, lines[(k + 60) % 120].clone());
        assert_eq!(damage(&far, Some(&seal)), Some((place, place, Damage::Duplicated)), "copied to {place}");
        for added in [&foreign[k], &b"{}\n".to_vec(), &b"\n".to_vec()] {
            let mut more = lines.clone();
            more.insert(k, added.clone());
            assert_eq!(damage(&more, Some(&seal)), Some((place, place, Damage::Inserted)), "added at {place}");
        }
        let mut replaced = lines.clone();
        replaced[k].clone_from(&foreign[k]);
        assert_eq!(damage(&replaced, Some(&seal)), Some((place, place, Damage::Changed)), "replaced {place}");
    }
}

#[test]
fn every_swap_is_named() {
    let (lines, seal) = log(40, KEY);
    for i in 0..lines.len() {
        for j in i + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(i, j);
            let place = i as u64 + 1;
            assert_eq!(damage(&swapped, Some(&seal)), Some((place, place, Damage::Swapped)), "{i} and {j}");
        }
    }
}

#[test]
fn a_cut_at_every_byte_is_found_against_the_seal() {
    let (lines, seal) = log(20, KEY);
    let whole = lines.concat();
    for cut in 0..whole.len() {
        let line = whole[..cut].iter().filter(|c| **c == b'\n').count() as u64 + 1;
        let bad = check(whole[..cut].to_vec(), Some(&seal)).bad.unwrap();
        assert_eq!((bad.line, bad.seq, bad.damage), (line, line, Damage::CutTail), "cut at {cut}");
        // Past the last seal half a line is a torn tail, and a whole one less can't show.
        let sealed = log(line - 1, KEY).1;
        let past = check(whole[..cut].to_vec(), Some(&sealed)).bad.map(|bad| (bad.line, bad.damage));
        let half = whole[..cut].last().is_some_and(|c| *c != b'\n');
        assert_eq!(past, half.then_some((line, Damage::TornTail)), "cut at {cut}");
    }
}

#[test]
fn spliced_and_rolled_back_logs_are_found() {
    let (lines, seal) = log(60, KEY);
    let (other, other_seal) = log(60, TestKey([9; 32]));
    for at in 1..60 {
        let spliced = [&lines[..at], &other[at..]].concat();
        assert_eq!(damage(&spliced, Some(&seal)).map(|bad| bad.0), Some(at as u64 + 1));
    }
    // The same key, another history of the same length: only the seal knows.
    let mut event = AuditEvent::new(EventKind::Use, NOW);
    event.note = Some("never happened".to_owned());
    let (mut line, mut mac) = (Vec::new(), Mac::GENESIS);
    for seq in 1..=60 {
        let from = line.len();
        event.write_body(seq, 0, &mut line);
        mac = finish_line(&mut line, from, mac, &KEY);
    }
    assert!(check(line.clone(), None).intact());
    assert_eq!(check(line.clone(), Some(&seal)).bad.map(|bad| (bad.line, bad.damage)), Some((60, Damage::NotSealed)));
    assert!(check(line, Some(&other_seal)).bad.is_some());
}

/// A line that says where it goes on from is good only where the daemon wrote it.
#[tokio::test]
async fn what_was_said_can_not_be_moved_to_hide_something() {
    let bench = Bench::new();
    let audit = bench.open();
    let mut ends = Vec::new();
    for _ in 0..6 {
        audit.note(bench.event(EventKind::Reload));
        audit.barrier().await.unwrap();
        ends.push(bench.bytes().len());
    }
    audit.stop().await.unwrap();
    std::fs::write(bench.path(), &bench.bytes()[..ends[3]]).unwrap();
    bench.open().stop().await.unwrap();
    assert!(bench.verify().intact());
    let lines: Vec<Vec<u8>> = bench.bytes().split_inclusive(|c| *c == b'\n').map(<[u8]>::to_vec).collect();
    let seal = bench.seal();
    assert_eq!(lines.len(), 5, "four lines and the gap");
    for dropped in 0..4 {
        let mut less = lines.clone();
        less.remove(dropped);
        let bad = damage(&less, seal.as_ref()).expect("a gap line vouches for its own place only");
        assert_eq!(bad.0, dropped as u64 + 1);
    }
    let mut more = lines.clone();
    more.insert(4, b"{}\n".to_vec());
    assert_eq!(damage(&more, seal.as_ref()).map(|bad| bad.0), Some(5), "nor for what is put before it");
    let mut spoilt = lines.clone();
    spoilt[1][60] ^= 1;
    assert_eq!(damage(&spoilt, seal.as_ref()).map(|bad| bad.0), Some(2));
}

#[tokio::test]
async fn a_missing_file_in_the_middle_is_named() {
    let bench = Bench::new();
    let audit = bench.open();
    for n in (1..=2).rev() {
        audit.note(bench.event(EventKind::Reload));
        audit.barrier().await.unwrap();
        bench.time.pass(Duration::from_secs(1));
        std::fs::rename(bench.path(), bench.beside(&format!("audit.log.{n}"))).unwrap();
        audit.reopen().await.unwrap();
    }
    audit.note(bench.event(EventKind::Reload));
    audit.stop().await.unwrap();
    let files = ["audit.log.2", "audit.log.1", "audit.log"].map(|name| bench.beside(name));
    let seal = bench.seal();
    let check = |files: &[PathBuf]| verify(files, &KEY, seal.as_ref()).unwrap();
    assert!(check(&files).intact());
    assert!(check(&files[1..]).intact(), "the oldest may be gone");
    let bad = check(&[files[0].clone(), files[2].clone()]).bad.unwrap();
    assert_eq!((bad.file, bad.line, bad.damage), (files[2].clone(), 1, Damage::Removed));
    let bad = check(&files[..2]).bad.unwrap();
    assert_eq!((bad.file, bad.damage), (files[1].clone(), Damage::CutTail));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes for any bytes, anywhere: either nothing changed, or it is found, not after the first changed line.
    #[test]
    fn any_change_is_found(at in 0.0..1.0_f64, len in 0..600_usize, new in prop::collection::vec(any::<u8>(), 0..40)) {
        let (lines, seal) = log(20, KEY);
        let whole = lines.concat();
        let from = (at * whole.len() as f64) as usize;
        let to = (from + len).min(whole.len());
        let mut spoilt = whole.clone();
        spoilt.splice(from..to, new);
        let same = spoilt.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        let report = check(spoilt.clone(), Some(&seal));
        if spoilt == whole {
            prop_assert!(report.intact());
        } else if spoilt.starts_with(&whole) {
            // Only something appended past the seal, which is no line.
            prop_assert!(report.bad.is_some());
        } else {
            let line = whole[..same].iter().filter(|c| **c == b'\n').count() as u64 + 1;
            prop_assert_eq!(report.bad.map(|bad| bad.line), Some(line));
        }
    }

    /// No bytes make it panic or loop.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let report = check(bytes.clone(), None);
        prop_assert_eq!(report.lines, 0);
        prop_assert_eq!(report.intact(), bytes.is_empty());
    }
}
