//! The differences that are meant: rows of the table in `docs/spdk-compatibility.md`.

use std::cell::Cell;

use super::compare::Difference;

/// A row `| scenario | method | path | reason |`; the first three in backquotes. A path also covers what is below it.
struct Exception {
    method: String,
    path: String,
    used: Cell<bool>,
}

/// The rows of one scenario.
pub(crate) struct Exceptions(Vec<Exception>);

impl Exceptions {
    pub(crate) fn of(scenario: &str) -> Self {
        let rows = include_str!("../../../docs/spdk-compatibility.md").lines().filter_map(|line| {
            let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
            let [scenarios, method, path, reason] = cells[..] else { return None };
            let unquote = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
            let scenarios = unquote(scenarios)?;
            assert!(!reason.is_empty(), "no reason in {line:?}");
            let row = Exception { method: unquote(method)?, path: unquote(path)?, used: Cell::new(false) };
            scenarios.split(' ').any(|name| name == scenario).then_some(row)
        });
        Self(rows.collect())
    }

    /// Whether a method is listed as absent; `tests/methods.rs` checks that list.
    pub(crate) fn is_absent(method: &str) -> bool {
        let document = include_str!("../../../docs/spdk-compatibility.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        // A row of two cells: the method, and why.
        let absent = rows.filter(|(_, rest)| rest.matches('|').count() == 2).map(|(pattern, _)| pattern);
        absent.into_iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => method.starts_with(prefix),
            None => method == pattern,
        })
    }

    pub(crate) fn allow(&self, method: &str, difference: &Difference) -> bool {
        let found = self.0.iter().find(|row| {
            row.method == method
                && difference
                    .path
                    .strip_prefix(&row.path)
                    .is_some_and(|below| below.is_empty() || below.starts_with(['.', '[']))
        });
        found.inspect(|row| row.used.set(true)).is_some()
    }

    /// Rows that no difference needed.
    pub(crate) fn unused(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|row| !row.used.get())
            .map(|row| format!("{} {}", row.method, row.path))
            .collect()
    }
}
