use vda_spdk::{NvmfHost, SubsystemType};

use super::*;

fn spec(hosts: &[&str]) -> ExportSpec {
    ExportSpec {
        nqn: "nqn.x".into(),
        serial_number: "S".into(),
        model_number: "M".into(),
        cntlids: None,
        max_namespaces: 1,
        ana: None,
        hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
        listener: ListenAddress::tcp("127.0.0.1:4420".parse().unwrap()),
        namespace: NamespaceSpec { bdev: "lvs/vol".into(), uuid: Uuid::from_u128(1), nguid: "AB".repeat(16) },
    }
}

fn state(hosts: &[&str], listening: bool, with_ns: bool) -> ExportState {
    let trid = Trid {
        traddr: Some("127.0.0.1".into()),
        adrfam: Some("IPv4".into()),
        trsvcid: Some("4420".into()),
        ..Trid::new("TCP")
    };
    let ns = NvmfNamespace {
        uuid: Some(Uuid::from_u128(1)),
        nguid: Some("ab".repeat(16)),
        ..NvmfNamespace::new(1_u32, "bdev", "bdev")
    };
    let hosts: Vec<NvmfHost> = hosts.iter().map(|h| NvmfHost::new(*h)).collect();
    let subsystem = NvmfSubsystem {
        serial_number: Some("S".into()),
        model_number: Some("M".into()),
        namespaces: Some(with_ns.then_some(ns).into_iter().collect()),
        ..NvmfSubsystem::new(
            "nqn.x",
            SubsystemType::Nvme,
            listening.then_some(trid).into_iter().collect::<Vec<_>>(),
            false,
            hosts,
        )
    };
    ExportState { subsystem, ana: None }
}

#[test]
fn as_wanted_there_is_nothing_to_do() {
    assert_eq!(spec(&["a"]).adjust(&state(&["a"], true, true), Some("bdev")), ExportVerdict::Fine);
}

#[test]
fn the_old_owner_goes_before_the_new_one_comes() {
    let ExportVerdict::Adjust(actions) = spec(&["new"]).adjust(&state(&["old"], true, true), Some("bdev"))
    else {
        panic!("something has to be done")
    };
    assert!(matches!(&actions[0], ExportAction::ForbidHost { host, .. } if host == "old"), "{actions:?}");
    assert!(matches!(&actions[1], ExportAction::AllowHost { host, .. } if host == "new"), "{actions:?}");
    assert_eq!(actions.len(), 2);
}

#[test]
fn a_host_is_fenced_off_even_if_the_bdev_is_gone() {
    let ExportVerdict::Adjust(actions) = spec(&[]).adjust(&state(&["old"], true, false), None) else {
        panic!("something has to be done")
    };
    assert!(matches!(actions.as_slice(), [ExportAction::ForbidHost { .. }]), "{actions:?}");
}

#[test]
fn open_to_all_is_closed() {
    let mut open = state(&["a"], true, true);
    open.subsystem.allow_any_host = true;
    assert_eq!(open.only_host(), None);
    let verdict = spec(&["a"]).adjust(&open, Some("bdev"));
    assert_eq!(verdict, ExportVerdict::Adjust(vec![ExportAction::ForbidAnyHost { nqn: "nqn.x".into() }]));
}

#[test]
fn a_namespace_of_another_bdev_is_replaced() {
    let ExportVerdict::Adjust(actions) = spec(&["a"]).adjust(&state(&["a"], true, true), Some("other"))
    else {
        panic!("something has to be done")
    };
    let shape = matches!(
        actions.as_slice(),
        [ExportAction::RemoveNamespace { nsid: 1, .. }, ExportAction::AddNamespace { .. }]
    );
    assert!(shape, "{actions:?}");
}

#[test]
fn nobody_can_connect_to_something_half_made() {
    let actions = spec(&["a", "b"]).create();
    assert!(matches!(actions.first(), Some(ExportAction::Create(_))));
    assert!(matches!(actions.last(), Some(ExportAction::AddListener { .. })));
    assert_eq!(actions.len(), 5);
}
