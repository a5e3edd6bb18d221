//! Which of SPDK's methods are served: those of the schema, except for those that `docs/spdk-compatibility.md` lists as absent.
//!
//! With `VDA_SPDK_TGT=/path/to/spdk_tgt` the same is asked of SPDK: it has to have everything the data plane serves.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

#[allow(dead_code)]
#[path = "conformance/target.rs"]
mod target;

use target::Target;

/// SPDK's methods with their parameters; a type that ends with `?` is that of an optional one.
fn schema() -> BTreeMap<String, BTreeMap<String, String>> {
    let text = include_str!("../../spdk/tests/schema.json");
    let mut whole: Value = serde_json::from_str(text).unwrap();
    serde_json::from_value(whole["methods"].take()).unwrap()
}

/// The rows of a table of the document, by the heading above it: their cells without backquotes.
fn table(heading: &str) -> Vec<Vec<String>> {
    let document = include_str!("../../docs/spdk-compatibility.md");
    let (_, section) =
        document.split_once(heading).unwrap_or_else(|| panic!("the document has no {heading:?}"));
    let rows = section.lines().skip(1).take_while(|line| !line.starts_with('#'));
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|c| c.replace('`', "").trim().to_owned()).collect()
    };
    rows.filter(|line| line.starts_with("| `")).map(cells).collect()
}

fn is_match(pattern: &str, method: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => method.starts_with(prefix),
        None => method == pattern,
    }
}

fn served(target: &mut Target) -> BTreeSet<String> {
    let answer = target.exchange(&json!({"jsonrpc": "2.0", "id": 1, "method": "rpc_get_methods"}));
    serde_json::from_value(answer["result"].clone()).unwrap()
}

#[test]
fn every_method_of_spdk_is_served_or_listed_as_absent() {
    let dir = tempfile::tempdir().unwrap();
    let served = served(&mut Target::start(dir.path(), "methods"));
    let absent = table("## Methods that are absent\n");
    assert!(
        absent.iter().all(|row| row.len() == 2 && !row[1].is_empty()),
        "a row without a reason: {absent:?}"
    );
    let schema = schema();
    if Target::spdk("methods").is_some() {
        let ours = |method: &&String| !absent.iter().any(|row| is_match(&row[0], method));
        let missing: Vec<_> = schema.keys().filter(ours).filter(|method| !served.contains(*method)).collect();
        assert!(missing.is_empty(), "SPDK does not serve {missing:?}");
        return;
    }
    let foreign: Vec<_> = served.iter().filter(|method| !schema.contains_key(*method)).collect();
    assert!(foreign.is_empty(), "served, but not known to SPDK: {foreign:?}");
    let unserved: BTreeSet<&String> = schema.keys().filter(|method| !served.contains(*method)).collect();
    let unlisted: Vec<_> =
        unserved.iter().filter(|method| !absent.iter().any(|row| is_match(&row[0], method))).collect();
    assert!(unlisted.is_empty(), "neither served nor listed as absent: {unlisted:?}");
    let needless: Vec<_> =
        absent.iter().filter(|row| !unserved.iter().any(|method| is_match(&row[0], method))).collect();
    assert!(needless.is_empty(), "listed as absent, but served or unknown to SPDK: {needless:?}");
}

#[test]
fn parameters_without_effect_are_parameters_of_served_methods() {
    let dir = tempfile::tempdir().unwrap();
    let served = served(&mut Target::start(dir.path(), "parameters"));
    let schema = schema();
    let rows = table("## Parameters without effect\n");
    assert!(!rows.is_empty());
    for row in &rows {
        assert!(row.len() == 3 && !row[2].is_empty(), "no reason: {row:?}");
        let methods: Vec<_> = served.iter().filter(|method| is_match(&row[0], method)).collect();
        assert!(!methods.is_empty(), "no such method is served: {row:?}");
        for parameter in row[1].split(' ') {
            let known = methods.iter().any(|method| schema[*method].contains_key(parameter));
            assert!(known, "{} has no parameter {parameter}", row[0]);
        }
    }
}

/// The table of what is compared where names every scenario, and only scenarios that have the methods of their row.
#[test]
fn scenarios_have_what_the_document_says() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let files = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    let scenarios: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let has = |scenario: &str, method: &str| {
        let text = std::fs::read_to_string(dir.join(scenario).with_extension("jsonl")).unwrap();
        // Raw requests have their method in a string.
        text.contains(&format!("\"{method}\"")) || text.contains(&format!("\\\"{method}\\\""))
    };
    let document = include_str!("../../docs/spdk-compatibility.md");
    let (_, section) = document.split_once("## What is compared, where\n").unwrap();
    let rows = section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.ends_with("` |"));
    let mut named = BTreeSet::new();
    for row in rows {
        let cells: Vec<String> =
            row.trim_matches('|').split('|').map(|c| c.replace('`', "").trim().to_owned()).collect();
        let [what, methods, of] = &cells[..] else { panic!("not three cells: {row}") };
        let of: Vec<&str> = of.split(' ').collect();
        for method in methods.split(' ') {
            assert!(
                of.iter().any(|scenario| has(scenario, method)),
                "{what}: no scenario of {of:?} has {method}"
            );
        }
        for scenario in of {
            let relevant = methods.split(' ').any(|method| has(scenario, method));
            assert!(scenarios.contains(scenario) && relevant, "{what}: {scenario} has none of it");
            named.insert(scenario.to_owned());
        }
    }
    assert_eq!(named, scenarios, "scenarios that the table does not name");
}

/// What is absent is unknown to the target. (Unknown parameters: scenario `bad_parameters`.)
#[test]
fn absent_methods_are_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut target = Target::start(dir.path(), "unknown");
    let start = target.exchange(&json!({"jsonrpc": "2.0", "id": 1, "method": "framework_start_init"}));
    assert_eq!(start["result"], true);
    let served = served(&mut target);
    for method in schema().keys().filter(|method| !served.contains(*method)) {
        let answer = target.exchange(&json!({"jsonrpc": "2.0", "id": 1, "method": method}));
        assert_eq!(answer["error"], json!({"code": -32601, "message": "Method not found"}), "{method}");
    }
}
