//! How answers look: JSON for programs, tables and cards for people.
//!
//! JSON keys are stable and documented (`docs/json.md`); what people see may change from version to version. Text that
//! came from others is cleaned of control and direction characters before it gets to a terminal.

pub mod audit;
pub mod grid;
pub mod import;
pub mod json;
pub mod many;
pub mod page;
pub mod rekey;
pub mod shown;
pub mod status;
pub mod style;
pub mod token;
pub mod when;

#[cfg(test)]
pub(in crate::ctl) mod tests;
