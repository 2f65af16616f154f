//! Requests as a client has them, by reference, and the answer that each of them may get.

use serde::Serialize;

use super::ClientError;
use crate::protocol::message::{
    Answer, AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Edit, Events, Handle, Hold, ImportEntry,
    ImportOutcome, Issue, Issued, List, Rekey, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, Shown, Stamped,
    TokenInfo, Tokens, UseReport, Validate, Verdict, Watch,
};
use crate::time::UnixTime;

/// [`crate::protocol::message::Request`], made of references: nothing is copied to be sent.
#[derive(Serialize)]
pub(super) struct Outgoing<'a> {
    pub(super) id: u32,
    pub(super) body: Question<'a>,
}

/// [`crate::protocol::message::Ask`], made of references; the same variants in the same order, which a test holds to.
#[derive(Clone, Copy, Serialize)]
pub(super) enum Question<'a> {
    Validate(&'a Validate<'a>),
    ValidateBatch(&'a [Validate<'a>]),
    Issue(&'a Issue),
    Revoke(&'a Revoke<'a>),
    Show(&'a Handle),
    List(&'a List),
    Status,
    Audit(&'a AuditQuery),
    AuditSummary(&'a Handle),
    AuditVerify,
    ClockReset,
    Suspend(&'a Hold),
    Resume(&'a Hold),
    Watch(&'a Watch),
    Rekey(Rekey),
    RekeyProgress,
    RecoveryKey,
    Backup(BackupAsk),
    Import(&'a [ImportEntry<'a>]),
    Edit(&'a Edit),
    Renew(&'a Handle),
    Rotate(&'a Rotate),
    ReportUses(&'a [UseReport<'a>]),
}

const OTHER: ClientError = ClientError::Protocol("the reply is not one to this request");

macro_rules! take {
    ($($name:ident: $variant:ident => $type:ty),* $(,)?) => {$(
        pub(super) fn $name(answer: Answer) -> Result<$type, ClientError> {
            match answer {
                Answer::$variant(value) => Ok(value),
                Answer::Error(failure) => Err(failure.into()),
                _ => Err(OTHER),
            }
        }
    )*};
}

take! {
    verdict: Verdict => Box<Verdict>,
    issued: Issued => Box<Issued>,
    changed: Changed => Changed,
    token: Token => Box<TokenInfo>,
    shown: Shown => Box<Shown>,
    tokens: Tokens => Tokens,
    json: Json => String,
    audit_lines: AuditLines => AuditLines,
    time: Time => UnixTime,
    events: Events => Events,
    rekeyed: Rekeyed => Box<Rekeyed>,
    rekey_progress: RekeyProgress => RekeyProgress,
    backup: Backup => BackupPiece,
    rotated: Rotated => Box<Rotated>,
}

/// A verdict that may say how it may be kept.
pub(super) fn stamped(answer: Answer) -> Result<Stamped, ClientError> {
    match answer {
        Answer::Stamped(stamped) => Ok(*stamped),
        // The page was not granted.
        answer => verdict(answer).map(|verdict| Stamped { verdict: *verdict, cache: None }),
    }
}

pub(super) fn reported(answer: Answer) -> Result<(), ClientError> {
    match answer {
        Answer::Reported => Ok(()),
        Answer::Error(failure) => Err(failure.into()),
        _ => Err(OTHER),
    }
}

/// As many verdicts as were asked for, or none of them counts: one too few would shift the rest to other tokens.
pub(super) fn verdicts(answer: Answer, asked: usize) -> Result<Vec<Verdict>, ClientError> {
    match answer {
        Answer::Verdicts(verdicts) if verdicts.len() == asked => Ok(verdicts),
        Answer::Error(failure) => Err(failure.into()),
        _ => Err(OTHER),
    }
}

/// As many outcomes as there were tokens, or none of them counts.
pub(super) fn imported(answer: Answer, asked: usize) -> Result<Vec<ImportOutcome>, ClientError> {
    match answer {
        Answer::Imported(outcomes) if outcomes.len() == asked => Ok(outcomes),
        Answer::Error(failure) => Err(failure.into()),
        _ => Err(OTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::protocol::message::{Ask, Chosen, Foreign, Request, Which};

    #[test]
    fn a_request_by_reference_has_the_bytes_of_the_message() {
        let validate = Validate {
            token: "brdm_x",
            scopes: vec!["a:b", "c"],
            audience: Some("backup"),
            from: Some("192.0.2.1".parse().unwrap()),
            note: None,
            peek: true,
        };
        let issue = Issue { name: "ci".into(), max_uses: Some(300), ..Issue::default() };
        let revoke = || Revoke { which: Which::Token("brdm_x"), reason: Some("found".into()), dry_run: false };
        let handle = Handle("01M".into());
        let list = List { limit: 9, ..List::default() };
        let audit = AuditQuery { uid: Some(70_000), ..AuditQuery::default() };
        let hold = Hold { which: Chosen::Handles(vec![handle.clone()]), reason: None, dry_run: true };
        let edit = Edit { name: Some("n".into()), ..Edit::of(handle.clone()) };
        let rotate = Rotate { token: handle.clone(), now: true, grace: None };
        let batch = vec![validate.clone(), validate.clone()];
        let import = vec![
            ImportEntry { token: Foreign::Text("q8Zr2Lm7Xv4Tk9Wb"), facts: issue.clone(), expires_at: None },
            ImportEntry { token: Foreign::Sha256([200; 32]), facts: Issue::default(), expires_at: Some(UnixTime::MAX) },
        ];
        let reports = [UseReport { ticket: &[200; 40], count: 300, first: UnixTime::EPOCH, last: UnixTime::MAX }];
        let pairs = [
            (Question::Validate(&validate), Ask::Validate(validate.clone())),
            (Question::ValidateBatch(&batch), Ask::ValidateBatch(batch.clone())),
            (Question::Issue(&issue), Ask::Issue(issue.clone())),
            (Question::Revoke(&revoke()), Ask::Revoke(revoke())),
            (Question::Show(&handle), Ask::Show(handle.clone())),
            (Question::List(&list), Ask::List(list.clone())),
            (Question::Status, Ask::Status),
            (Question::Audit(&audit), Ask::Audit(audit.clone())),
            (Question::AuditSummary(&handle), Ask::AuditSummary(handle.clone())),
            (Question::AuditVerify, Ask::AuditVerify),
            (Question::ClockReset, Ask::ClockReset),
            (Question::Watch(&Watch { since: Some(300) }), Ask::Watch(Watch { since: Some(300) })),
            (Question::Rekey(Rekey { data: true }), Ask::Rekey(Rekey { data: true })),
            (Question::RekeyProgress, Ask::RekeyProgress),
            (Question::RecoveryKey, Ask::RecoveryKey),
            (Question::Backup(BackupAsk { after: Some(300) }), Ask::Backup(BackupAsk { after: Some(300) })),
            (Question::Import(&import), Ask::Import(import.clone())),
            (Question::Suspend(&hold), Ask::Suspend(hold.clone())),
            (Question::Resume(&hold), Ask::Resume(hold.clone())),
            (Question::Edit(&edit), Ask::Edit(edit.clone())),
            (Question::Renew(&handle), Ask::Renew(handle.clone())),
            (Question::Rotate(&rotate), Ask::Rotate(rotate.clone())),
            (Question::ReportUses(&reports), Ask::ReportUses(reports.to_vec())),
        ];
        for (body, ask) in pairs {
            let id = 77_000;
            assert_eq!(codec::encode(&Outgoing { id, body }), codec::encode(&Request { id, body: ask }));
        }
    }
}
