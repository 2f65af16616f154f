//! The trail's own verbs: pages of lines, who used a token, and whether the chain holds.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::turns::Turn;
use super::{Caller, Service, invalid};
use crate::audit::{Filter, Page, QueryError, Summary, VerifyReport};
use crate::config::Operation;
use crate::policy;
use crate::protocol::NAME_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::is_clean;
use crate::protocol::message::{AuditLines, AuditQuery, Failure, Handle};
use crate::registry::Invalid;

/// How long a query that follows waits for a line before it is answered without one.
const FOLLOW_WAIT: Duration = Duration::from_secs(10);
/// Lines of one page.
const LINES_MAX: usize = 500;
/// Longest cursor that is looked at.
const CURSOR_MAX: usize = 128;

impl Service {
    pub(super) async fn audit_page(&self, caller: &Arc<Caller>, query: AuditQuery) -> Result<AuditLines, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Audit), None)?;
        let filter = self.filter(&query)?;
        if query.after.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_MAX) {
            return Err(bad_cursor());
        }
        // What was answered before this question is in the log before it is read.
        self.alerts_told().await;
        let _ = self.audit.barrier().await;
        let mut appended = self.audit.appended();
        appended.mark_unchanged();
        let mut page = self.page(caller, &filter, query.after).await?;
        if query.wait && page.lines.is_empty() && !page.more {
            // One line at least has come, or nothing has for a while; it need not be one that is wanted.
            let mut stopping = self.stopping.subscribe();
            let come = tokio::time::timeout(FOLLOW_WAIT, async {
                tokio::select! {
                    come = appended.changed() => come.is_ok(),
                    // Nobody who follows holds the stop up.
                    _ = stopping.wait_for(|stopping| *stopping) => false,
                }
            });
            if come.await.unwrap_or(false) {
                page = self.page(caller, &filter, Some(page.next)).await?;
            }
        }
        Ok(AuditLines { lines: page.lines, next: page.next, end: !page.more })
    }

    async fn page(&self, caller: &Caller, filter: &Filter, after: Option<String>) -> Result<Page, Failure> {
        let _permit = self.reader(caller).await?;
        self.audit.query(filter.clone(), after, LINES_MAX).await.map_err(query_failure)
    }

    fn filter(&self, query: &AuditQuery) -> Result<Filter, Failure> {
        for (field, text) in [("subject", &query.subject), ("unit", &query.unit)] {
            if text.as_ref().is_some_and(|text| !is_clean(text, NAME_MAX)) {
                return Err(invalid(Invalid::Text { field, max: NAME_MAX }));
            }
        }
        let event =
            match &query.event {
                Some(event) => Some(event.parse().map_err(|error: crate::audit::UnknownEvent| {
                    Failure::new(ErrorCode::BadRequest, error.to_string())
                })?),
                None => None,
            };
        let token = query.token.as_ref().map(|handle| self.resolve(handle, false)).transpose()?;
        Ok(Filter {
            token,
            subject: query.subject.clone(),
            unit: query.unit.clone(),
            uid: query.uid,
            event,
            since: query.since,
            until: query.until,
        })
    }

    pub(super) async fn audit_summary(&self, caller: &Arc<Caller>, handle: Handle) -> Result<String, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Audit), None)?;
        let id = self.resolve(&handle, false)?;
        self.alerts_told().await;
        let _ = self.audit.barrier().await;
        let _permit = self.reader(caller).await?;
        let summary = self.audit.summary(id).await.map_err(query_failure)?;
        Ok(summary_json(&id.to_string(), &summary).to_string())
    }

    pub(super) async fn audit_verify(&self, caller: &Arc<Caller>) -> Result<String, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Audit), None)?;
        let _permit = self.reader(caller).await?;
        match self.audit.verify(Vec::new()).await {
            Ok(report) => Ok(report_json(&report).to_string()),
            Err(error) => Err(Failure::new(ErrorCode::Unavailable, format!("the audit log can't be read: {error}"))),
        }
    }

    /// The peer's turn to read what takes a while.
    pub(super) async fn reader(&self, caller: &Caller) -> Result<Turn, Failure> {
        let turn = self.readers.take(caller, &self.settings(), 1).await;
        turn.ok_or_else(|| Failure::new(ErrorCode::Stopping, "bearerd is stopping: connect again"))
    }
}

fn bad_cursor() -> Failure {
    Failure::new(ErrorCode::BadRequest, "not a cursor of this log: begin again without one")
}

fn query_failure(error: QueryError) -> Failure {
    match error {
        QueryError::Cursor => bad_cursor(),
        error => Failure::new(ErrorCode::Unavailable, error.to_string()),
    }
}

fn summary_json(id: &str, summary: &Summary) -> Value {
    let rows: Vec<Value> = summary
        .rows
        .iter()
        .map(|row| {
            json!({
                "unit": row.unit, "uid": row.uid, "from": row.from, "subject": row.subject, "count": row.count,
                "active": row.active, "first": row.first, "last": row.last, "reasons": row.reasons,
            })
        })
        .collect();
    json!({ "id": id, "rows": rows, "truncated": summary.truncated })
}

fn report_json(report: &VerifyReport) -> Value {
    let first_bad = report.bad.as_ref().map(|bad| {
        json!({
            "file": bad.file.display().to_string(), "line": bad.line, "seq": bad.seq,
            "class": bad.damage.name(), "detail": format!("{} at line {} of {}, where seq {} belongs", bad.damage.name(), bad.line, bad.file.display(), bad.seq),
        })
    });
    let said: Vec<Value> = report
        .said
        .iter()
        .map(|said| json!({ "file": said.file.display().to_string(), "line": said.line, "seq": said.seq, "event": said.event, "missing": said.missing, "note": said.note }))
        .collect();
    json!({
        "ok": report.intact(),
        "files": report.files,
        "lines": report.lines,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "first_bad": first_bad,
        "missing_lines": report.missing_lines,
        "segments": said,
        "unsealed_lines": report.past_seal,
        "sealed_seq": report.sealed_seq,
    })
}
