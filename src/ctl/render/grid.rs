//! Tables without borders, laid out for the width that there is.
//!
//! Too wide a table first shortens what can be shortened, then leaves out the columns of the highest rank. Columns in
//! which no row has anything are left out altogether.

use comfy_table::{ColumnConstraint, Table, Width, presets};

use super::style::{Ink, cut, ink, shorten, width};

/// Blanks between two columns.
const GAP: usize = 2;
/// Columns of a higher rank are left out before another gets less than it wishes for.
const ESSENTIAL: u8 = 2;

/// How a cell that is too long is made shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Never: the column is left out before.
    Whole,
    /// Cut off with `…`, to no less than so many columns.
    Shorten(usize),
    /// Cut off without a mark, to exactly so many columns: the beginning of an id is as good as the id.
    Cut(usize),
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above it.
    pub title: &'static str,
    /// Columns of higher rank go first when there is no room; rank 0 never.
    pub rank: u8,
    /// How its cells get shorter.
    pub fit: Fit,
    /// With less than this it tells little: columns that are not essential go first.
    wish: usize,
}

impl Column {
    /// A column.
    pub const fn new(title: &'static str, rank: u8, fit: Fit) -> Self {
        Self { title, rank, fit, wish: 0 }
    }

    /// The column with a wish for so much room.
    pub const fn wish(self, wish: usize) -> Self {
        Self { wish, ..self }
    }
}

/// Which columns are shown, and how wide each is.
#[derive(Clone, Debug)]
pub struct Layout {
    columns: Vec<(usize, Column, usize)>,
}

impl Layout {
    /// Lays out columns whose cells are at most as wide as `natural`; 0 leaves a column out.
    pub fn new(columns: &[Column], natural: &[usize], room: Option<usize>) -> Self {
        let mut columns: Vec<(usize, Column, usize)> = columns
            .iter()
            .enumerate()
            .filter(|(nth, _)| natural[*nth] > 0)
            .map(|(nth, column)| (nth, *column, natural[nth].max(width(column.title))))
            .collect();
        if let Some(room) = room {
            while total(&columns) > room {
                let mut squeezed = columns.clone();
                let last = columns.iter().map(|(_, column, _)| column.rank).max().unwrap_or(0);
                if squeeze(&mut squeezed, room, last > ESSENTIAL) || last == 0 {
                    columns = squeezed;
                    break;
                }
                columns.retain(|(_, column, _)| column.rank != last);
            }
        }
        Self { columns }
    }

    /// The titles, in one line.
    pub fn header(&self) -> String {
        self.lines(&[self.columns.iter().map(|(_, column, _)| ink(Ink::Dim, column.title)).collect()])
    }

    /// Rows, a line each; each with a cell for every column, shown or not.
    pub fn rows(&self, rows: &[Vec<String>]) -> String {
        let shown = |row: &Vec<String>| {
            self.columns
                .iter()
                .map(|(nth, column, room)| match column.fit {
                    Fit::Cut(_) if width(&row[*nth]) > *room => cut(&row[*nth], *room),
                    _ => shorten(&row[*nth], *room).into_owned(),
                })
                .collect()
        };
        self.lines(&rows.iter().map(shown).collect::<Vec<_>>())
    }

    fn lines(&self, rows: &[Vec<String>]) -> String {
        if rows.is_empty() || self.columns.is_empty() {
            return String::new();
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.add_rows(rows);
        for (column, (_, _, room)) in table.column_iter_mut().zip(&self.columns) {
            column.set_padding((0, GAP as u16));
            let room = u16::try_from(room + GAP).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(room)));
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The whole table: titles, then rows. Empty for no rows.
pub fn table(columns: &[Column], rows: &[Vec<String>], room: Option<usize>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let natural = natural(columns, rows);
    let layout = Layout::new(columns, &natural, room);
    layout.header() + &layout.rows(rows)
}

fn natural(columns: &[Column], rows: &[Vec<String>]) -> Vec<usize> {
    (0..columns.len()).map(|nth| rows.iter().map(|row| width(&row[nth])).max().unwrap_or(0)).collect()
}

fn total(columns: &[(usize, Column, usize)]) -> usize {
    columns.iter().map(|(_, _, room)| room + GAP).sum::<usize>().saturating_sub(GAP)
}

/// Takes from the widest column that can give, a column at a time, until all fit; says whether they do. Ids are cut
/// first: that loses nothing.
fn squeeze(columns: &mut [(usize, Column, usize)], room: usize, wishes: bool) -> bool {
    for (_, column, columns) in columns.iter_mut() {
        if let Fit::Cut(to) = column.fit {
            *columns = (*columns).min(to.max(width(column.title)));
        }
    }
    while total(columns) > room {
        let can_give = |(_, column, room): &&mut (usize, Column, usize)| match column.fit {
            Fit::Shorten(min) => *room > min.max(width(column.title)).max(if wishes { column.wish } else { 0 }),
            _ => false,
        };
        match columns.iter_mut().filter(can_give).max_by_key(|(_, _, room)| *room) {
            Some((_, _, room)) => *room -= 1,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::render::style::resolve;

    const COLUMNS: [Column; 4] = [
        Column::new("ID", 0, Fit::Cut(4)),
        Column::new("NAME", 0, Fit::Shorten(6)),
        Column::new("NOTE", 2, Fit::Whole),
        Column::new("STATE", 1, Fit::Whole),
    ];

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec!["ABCDEFGH".into(), "a name of some length".into(), "note".into(), "active".into()],
            vec!["ABCDXYZ1".into(), "名前".into(), String::new(), ink(Ink::Bad, "revoked")],
        ]
    }

    fn at(room: Option<usize>) -> String {
        resolve(&table(&COLUMNS, &rows(), room), false).into_owned()
    }

    #[test]
    fn with_room_everything_is_shown() {
        let text = "\
ID        NAME                   NOTE  STATE
ABCDEFGH  a name of some length  note  active
ABCDXYZ1  名前                         revoked
";
        assert_eq!(at(None), text);
        assert_eq!(at(Some(46)), text);
    }

    #[test]
    fn without_room_it_gets_shorter_then_narrower() {
        assert_eq!(
            at(Some(42)),
            "ID    NAME                   NOTE  STATE\nABCD  a name of some length  note  active\nABCD  名前                         revoked\n"
        );
        assert_eq!(
            at(Some(30)),
            "ID    NAME       NOTE  STATE\nABCD  a name o…  note  active\nABCD  名前             revoked\n"
        );
        assert_eq!(at(Some(22)), "ID    NAME     STATE\nABCD  a name…  active\nABCD  名前     revoked\n");
        for room in 12..60 {
            let widest = at(Some(room)).lines().map(width).max().unwrap();
            assert!(widest <= room, "{widest} in {room}:\n{}", at(Some(room)));
        }
    }

    /// A name of which little is left is worse than a table without labels.
    #[test]
    fn a_wish_goes_before_what_is_not_essential() {
        let columns = [COLUMNS[0], COLUMNS[1].wish(12), Column { rank: 3, ..COLUMNS[2] }, COLUMNS[3]];
        let header = |room| resolve(&table(&columns, &rows(), Some(room)), false).lines().next().unwrap().to_owned();
        assert_eq!(header(33), "ID    NAME          NOTE  STATE");
        assert_eq!(header(32), "ID    NAME               STATE");
        assert_eq!(header(24), "ID    NAME       STATE");
    }

    #[test]
    fn a_column_without_content_is_left_out() {
        let rows = vec![vec!["ABCD".into(), "x".into(), String::new(), "active".into()]];
        assert_eq!(resolve(&table(&COLUMNS, &rows, None), false), "ID    NAME  STATE\nABCD  x     active\n");
        assert_eq!(table(&COLUMNS, &[], None), "");
    }
}
