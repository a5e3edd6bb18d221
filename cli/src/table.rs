//! Tables: aligned columns, a header even when there are no rows, `<none>` for what is absent.

use std::iter;

/// What a value means for the reader, shown as colour on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        let text = text.into();
        Self { text: if text.is_empty() { "<none>".to_owned() } else { text }, tone }
    }

    fn paint(&self, colour: bool) -> String {
        let code = match self.tone {
            Tone::Plain => return self.text.clone(),
            Tone::Good => 32,
            Tone::Busy => 33,
            Tone::Bad => 31,
        };
        if colour { format!("\x1b[{code}m{}\x1b[0m", self.text) } else { self.text.clone() }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        // A message of several lines stays on its row.
        Self::toned(value.to_string().replace('\n', " "), Tone::Plain)
    }
}

/// One column of the table of a `T`.
pub(crate) struct Column<T> {
    name: &'static str,
    wide: bool,
    cell: fn(&T) -> Cell,
}

/// A column of every table.
pub(crate) const fn col<T>(name: &'static str, cell: fn(&T) -> Cell) -> Column<T> {
    Column { name, wide: false, cell }
}

/// A column of `-o wide` only.
pub(crate) const fn wide<T>(name: &'static str, cell: fn(&T) -> Cell) -> Column<T> {
    Column { name, wide: true, cell }
}

pub(crate) fn render<T>(columns: &[Column<T>], rows: &[T], wide: bool, colour: bool) -> String {
    let columns: Vec<_> = columns.iter().filter(|column| wide || !column.wide).collect();
    let header: Vec<Cell> = columns.iter().map(|column| column.name.into()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect());
    let lines: Vec<Vec<Cell>> = iter::once(header).chain(body).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    lines.iter().map(|line| aligned(line, &widths, colour)).collect()
}

/// Padding counts characters that are seen, not colour codes; the last column is not padded.
fn aligned(line: &[Cell], widths: &[usize], colour: bool) -> String {
    let mut text = String::new();
    for (at, cell) in line.iter().enumerate() {
        text += &cell.paint(colour);
        if at + 1 < line.len() {
            text.extend(iter::repeat_n(' ', widths[at] + 2 - cell.text.chars().count()));
        }
    }
    text + "\n"
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
