//! Who may know whom: the arrows of ARCHITECTURE.md, over what cargo says.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Crate, and which crates of ours it may use when it is built (not in its tests).
const MAY_USE: &[(&str, &[&str])] = &[
    ("vda-proto", &[]),
    ("vda-spdk", &[]),
    ("vda-nvme", &[]),
    ("vda-telemetry", &[]),
    ("vda-ports", &[]),
    ("vda-model", &["vda-proto"]),
    ("vda-store", &["vda-model", "vda-proto"]),
    ("vda-reconcile", &["vda-model", "vda-proto", "vda-spdk"]),
    ("vda-portal", &["vda-store", "vda-model", "vda-proto", "vda-telemetry"]),
    ("vda-monitor", &["vda-store", "vda-model", "vda-proto", "vda-telemetry"]),
    ("vda-dn-agent", &["vda-reconcile", "vda-model", "vda-proto", "vda-spdk", "vda-telemetry"]),
    ("vda-cn-agent", &["vda-reconcile", "vda-model", "vda-proto", "vda-spdk", "vda-telemetry"]),
    ("vda-dataplane", &["vda-spdk", "vda-nvme"]),
    ("vda-fuzz", &["vda-dataplane", "vda-nvme", "vda-spdk"]),
    ("vdacli", &["vda-model", "vda-proto"]),
];

/// What only one crate may import.
const ONLY: &[(&str, &str)] = &[("etcd-client", "vda-store")];

/// What a crate must do without.
const NEVER: &[(&str, &[&str])] = &[
    ("vda-model", &["tokio", "tonic", "rand", "uuid"]),
    ("vda-nvme", &["tokio", "socket2", "rustix"]),
    ("vda-spdk", &["tonic"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata")
}

/// What each crate of the workspace uses when it is built.
fn uses(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let used = |package: &cargo_metadata::Package| {
        package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != DependencyKind::Development)
            .map(|dependency| dependency.name.clone())
            .collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), used(package))).collect()
}

/// The messages for everything that breaks a rule.
fn violations(uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    let rules: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(name, may)| (*name, may.iter().copied().collect())).collect();
    for (name, used) in uses.iter().filter(|(name, _)| *name != "vda-integration") {
        let Some(may) = rules.get(name.as_str()) else {
            found.push(format!("{name} has no rule in this test, and no place in ARCHITECTURE.md"));
            continue;
        };
        let ours = used.iter().filter(|used| uses.contains_key(*used));
        found.extend(
            ours.filter(|used| !may.contains(used.as_str()))
                .map(|used| format!("{name} must not use {used}")),
        );
    }
    for (library, owner) in ONLY {
        let users = uses.iter().filter(|(name, used)| name != owner && used.contains(*library));
        found.extend(users.map(|(name, _)| format!("only {owner} may use {library}, not {name}")));
    }
    for (name, without) in NEVER {
        let used = uses.get(*name).cloned().unwrap_or_default();
        found.extend(
            without.iter().filter(|w| used.contains(**w)).map(|w| format!("{name} must do without {w}")),
        );
    }
    found
}

#[test]
fn the_arrows_of_the_architecture_hold() {
    let uses = uses(&metadata());
    for (name, _) in MAY_USE {
        assert!(uses.contains_key(*name), "{name} is not in the workspace any more");
    }
    assert_eq!(violations(&uses), Vec::<String>::new());
}

/// The checker itself: it must see what it is there for.
#[test]
fn a_wrong_arrow_is_found() {
    let mut uses = uses(&metadata());
    uses.get_mut("vda-dataplane").expect("there").insert("vda-model".into());
    uses.get_mut("vda-portal").expect("there").insert("etcd-client".into());
    uses.get_mut("vda-model").expect("there").insert("tokio".into());
    uses.insert("vda-novel".into(), BTreeSet::new());
    assert_eq!(violations(&uses).len(), 4, "{:?}", violations(&uses));
}
