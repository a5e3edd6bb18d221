use vda_proto::v1;

use super::*;

fn status(condition: Condition) -> ResourceStatus {
    plain(condition)
}

fn failed(op: &str, message: &str, code: i32) -> ResourceStatus {
    ResourceStatus { op: op.into(), message: message.into(), code, ..plain(Condition::Failed) }
}

fn dn_spec() -> v1::DnSpec {
    v1::DnSpec { address: "127.0.0.1:9720".into(), ..Default::default() }
}

fn place() -> v1::CntlrPlace {
    v1::CntlrPlace { cn_address: "127.0.0.1:9820".into(), primary: true, ..Default::default() }
}

#[test]
fn a_node_names_what_is_in_the_way() {
    assert_eq!(dn(&dn_spec(), None).on, "DN 127.0.0.1:9720: its agent has not been reached yet");
    let with =
        |agent, target| v1::DnStatus { agent: Some(agent), target: Some(target), ..Default::default() };
    let ready = || status(Condition::Ready);
    for said in ["unreachable", "agent unreachable", "DN 127.0.0.1:9720: agent unreachable"] {
        let observed = with(blocked(said, 7), ready());
        let derived = dn(&dn_spec(), Some(&observed));
        assert_eq!(derived.on, "DN 127.0.0.1:9720: agent unreachable");
        assert_eq!((derived.condition(), derived.since_ms), (Condition::Blocked, 7));
    }
    let observed = with(ready(), failed("connect", "no such socket", 2));
    assert_eq!(
        dn(&dn_spec(), Some(&observed)).on,
        "DN 127.0.0.1:9720: data plane connect: no such socket (2)"
    );
    assert_eq!(dn(&dn_spec(), Some(&with(ready(), ready()))).condition(), Condition::Ready);
    let deleting = v1::DnSpec { deleting: true, ..dn_spec() };
    assert_eq!(dn(&deleting, Some(&with(ready(), ready()))).condition(), Condition::Deleting);
}

#[test]
fn a_pd_is_ready_when_something_can_be_placed() {
    let ready = status(Condition::Ready);
    let spec = v1::PdSpec::default();
    let books = v1::PdCapacity { cluster_bytes: 4 << 20, ..Default::default() };
    let observed = v1::PdStatus { status: Some(ready.clone()), observed_revision: 5, ..Default::default() };
    let derive = |revision, books: &v1::PdCapacity| {
        pd(&spec, revision, Some(books), &ready, Some(&observed)).condition()
    };
    assert_eq!(derive(5, &books), Condition::Ready);
    assert_eq!(derive(6, &books), Condition::Pending);
    assert_eq!(derive(5, &v1::PdCapacity::default()), Condition::Pending);
}

#[test]
fn an_array_names_its_first_blocker() {
    let (ready, place) = (status(Condition::Ready), place());
    let down = blocked("DN 127.0.0.1:9720: agent unreachable", 3);
    let cntlr_status = |condition, observed_revision| v1::CntlrStatus {
        status: Some(ResourceStatus { on: "vd 1".into(), ..status(condition) }),
        observed_revision,
        ..Default::default()
    };
    let derive = |status: Option<&v1::CntlrStatus>, dn: &ResourceStatus, vd: ResourceStatus| {
        let share = v1::ShareStatus {
            vds: vec![v1::VdStatus { vd_id: "1".into(), status: Some(vd), ..Default::default() }],
            ..Default::default()
        };
        array(DaParts {
            cntlrs: &[CntlrPart { place: &place, revision: 9, status, node: &ready }],
            shares: &[SharePart { dn_address: "127.0.0.1:9720", status: Some(&share), node: dn }],
        })
    };
    let observed = cntlr_status(Condition::Ready, 9);
    assert_eq!(derive(Some(&observed), &down, ready.clone()).condition(), Condition::Ready, "it serves");
    assert_eq!(
        derive(Some(&cntlr_status(Condition::Ready, 8)), &ready, ready.clone()).condition(),
        Condition::Pending,
        "old news"
    );
    let waiting = cntlr_status(Condition::Blocked, 9);
    assert_eq!(derive(Some(&waiting), &down, ready.clone()), down);
    assert_eq!(derive(Some(&waiting), &ready, ready.clone()).on, "vd 1");
    let broken = derive(Some(&waiting), &ready, failed("bdev_lvol_create", "No space", -28));
    assert_eq!(broken.condition(), Condition::Failed);
    assert_eq!(broken.on, "DN 127.0.0.1:9720: vd 1: bdev_lvol_create: No space (-28)");
    assert_eq!(derive(None, &ready, ready.clone()).condition(), Condition::Pending);
}

#[test]
fn an_exporter_waits_for_its_array() {
    let (ready, place) = (status(Condition::Ready), place());
    let reported = v1::CntlrStatus {
        observed_revision: 9,
        exps: vec![v1::ExpStatus { exp_id: "e".into(), status: Some(ready.clone()), ..Default::default() }],
        ..Default::default()
    };
    let parts = [CntlrPart { place: &place, revision: 9, status: Some(&reported), node: &ready }];
    let waits = blocked("CN x: agent unreachable", 0);
    assert_eq!(exporter("e", &ready, &parts), ready);
    assert_eq!(exporter("e", &waits, &parts), waits);
    assert_eq!(exporter("other", &ready, &parts).condition(), Condition::Pending);
}
