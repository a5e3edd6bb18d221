use std::sync::Arc;

use vda_model::keys::{DnBootKey, LegStateKey, Prefix};
use vda_proto::v1::{
    DnShare, DnSpec, GroupSpec, LegObserved, LegSpec, LegState, Member, MemberStatus, MirrorSet, PdCapacity,
    PdStatus,
};
use vda_store::{MemKv, StmError, Store};

use super::*;

const DN: DnId = DnId::new(1);
const CN: CnId = CnId::new(2);
const DA: DaId = DaId::new(3);

fn status(condition: Condition) -> ResourceStatus {
    ResourceStatus { condition: condition.into(), ..ResourceStatus::default() }
}

async fn put<K: vda_model::keys::Key>(store: &Store, key: K, value: K::Value) -> u64 {
    let shared = Arc::new((key, value));
    let body = |tx: Tx| {
        let shared = shared.clone();
        async move {
            tx.put(&shared.0, &shared.1);
            Ok::<_, Abort<Error>>(())
        }
    };
    store.stm("put", body).await.unwrap().revision
}

async fn recorded(store: &Store, node: Node, entry: Entry) -> Result<(), StmError<Error>> {
    let entry = Arc::new(entry);
    let body = |tx: Tx| {
        let entry = entry.clone();
        async move { record(tx, node, &entry).await }
    };
    store.stm("record", body).await.map(|_| ())
}

fn of_share(observed_revision: u64, initialised: &[&str]) -> Entry {
    let vd = |id: &&str| VdStatus { vd_id: (*id).into(), initialised: true, ..VdStatus::default() };
    let vds = initialised.iter().map(vd).collect();
    let status =
        ShareStatus { schema_version: 1, da_id: DA.to_string(), observed_revision, vds, gone: false };
    let components =
        vec![ComponentEntry { da: DA, status: ComponentStatus::Share(status), exps: Vec::new() }];
    Entry { node: None, components }
}

fn store() -> Store {
    Store::new(Arc::new(MemKv::new()), Prefix::default())
}

#[tokio::test]
async fn an_older_observation_never_replaces_a_newer_one() {
    let store = store();
    put(&store, DnShareKey(DN, DA), DnShare { schema_version: 1, ..DnShare::default() }).await;
    recorded(&store, Node::Dn(DN), of_share(9, &["a"])).await.unwrap();
    recorded(&store, Node::Dn(DN), of_share(8, &["a", "b"])).await.unwrap();
    let stored = store.get(&ShareStatusKey(DN, DA)).await.unwrap().unwrap().value;
    assert_eq!((stored.observed_revision, stored.vds.len()), (9, 1));
}

#[tokio::test]
async fn initialised_stays_whatever_the_agent_forgets() {
    let store = store();
    put(&store, DnShareKey(DN, DA), DnShare { schema_version: 1, ..DnShare::default() }).await;
    recorded(&store, Node::Dn(DN), of_share(2, &["a", "b"])).await.unwrap();
    let mut forgot = of_share(3, &["a"]);
    if let ComponentStatus::Share(share) = &mut forgot.components[0].status {
        share.vds[0].initialised = false;
    }
    recorded(&store, Node::Dn(DN), forgot).await.unwrap();
    let stored = store.get(&ShareStatusKey(DN, DA)).await.unwrap().unwrap().value;
    assert_eq!(stored.observed_revision, 3);
    assert!(stored.vds.len() == 2 && stored.vds.iter().all(|vd| vd.initialised), "{stored:?}");

    put(&store, DnSpecKey(DN), DnSpec { schema_version: 1, ..DnSpec::default() }).await;
    let pds = vec![PdCapacity { pd_id: "p".into(), ..PdCapacity::default() }];
    put(&store, DnCapacityKey(DN), DnCapacity { schema_version: 1, pds, ..DnCapacity::default() }).await;
    let of_pds = |pds: Vec<PdStatus>| {
        let reported = Some(NodeStatus::Dn(DnStatus { pds, ..DnStatus::default() }));
        Entry { node: Some(NodeEntry { reported, ..NodeEntry::default() }), components: Vec::new() }
    };
    let pd = PdStatus { pd_id: "p".into(), initialised: true, ..PdStatus::default() };
    recorded(&store, Node::Dn(DN), of_pds(vec![pd])).await.unwrap();
    recorded(&store, Node::Dn(DN), of_pds(Vec::new())).await.unwrap();
    assert!(store.get(&DnStatusKey(DN)).await.unwrap().unwrap().value.pds[0].initialised);
}

#[tokio::test]
async fn nothing_is_recorded_about_what_is_not_there() {
    let store = store();
    recorded(&store, Node::Dn(DN), of_share(2, &["a"])).await.unwrap();
    assert!(store.get(&ShareStatusKey(DN, DA)).await.unwrap().is_none());
}

fn cntlr_spec() -> CntlrSpec {
    let member = |id: &str| Member { vd_id: id.into(), dn_id: DN.to_string(), ..Member::default() };
    let sets = vec![MirrorSet { stripe: 0, members: vec![member("a"), member("b")] }];
    let legs = vec![LegSpec {
        epoch: 1,
        groups: vec![GroupSpec { sets, ..GroupSpec::default() }],
        ..LegSpec::default()
    }];
    CntlrSpec { schema_version: 1, da_id: DA.to_string(), primary: true, legs, ..CntlrSpec::default() }
}

fn of_legs(observed_revision: u64, needs_election: bool, in_sync: &[&str]) -> Entry {
    let member = |id: &str| MemberStatus {
        vd_id: id.into(),
        status: Some(status(Condition::Ready)),
        in_sync: in_sync.contains(&id),
        rebuilt: false,
        rebuild_percent: 0,
        boot: String::new(),
    };
    let members = vec![member("a"), member("b")];
    let legs = vec![LegObserved { leg: 0, initialised: true, needs_election, members }];
    let status = CntlrStatus {
        schema_version: 1,
        da_id: DA.to_string(),
        observed_revision,
        legs,
        ..CntlrStatus::default()
    };
    let components =
        vec![ComponentEntry { da: DA, status: ComponentStatus::Cntlr(status), exps: Vec::new() }];
    Entry { node: None, components }
}

async fn leg(store: &Store) -> Versioned<LegState> {
    store.get(&LegStateKey(DA, 0)).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_report_from_before_an_election_does_not_undo_it() {
    let store = store();
    let spec = put(&store, CntlrSpecKey(CN, DA), cntlr_spec()).await;
    recorded(&store, Node::Cn(CN), of_legs(spec, false, &["a", "b"])).await.unwrap();
    let first = leg(&store).await;
    assert_eq!(first.value.in_sync, ["a", "b"]);

    // The target restarted; the agent knows the state and asks for an election.
    recorded(&store, Node::Cn(CN), of_legs(first.revision, true, &[])).await.unwrap();
    let elected = leg(&store).await;
    assert_eq!(elected.value.in_sync, ["a"]);

    // A monitor that was paused sends what it heard before: both were in sync then.
    recorded(&store, Node::Cn(CN), of_legs(first.revision, false, &["a", "b"])).await.unwrap();
    assert_eq!(leg(&store).await, elected);

    // Rebuilt, and reported by an agent that knows of the election.
    recorded(&store, Node::Cn(CN), of_legs(elected.revision, false, &["a", "b"])).await.unwrap();
    assert_eq!(leg(&store).await.value.in_sync, ["a", "b"]);
}

#[tokio::test]
async fn only_the_primary_that_is_not_being_deleted_says_what_is_in_sync() {
    for (primary, deleting) in [(false, false), (true, true)] {
        let store = store();
        let spec = put(&store, CntlrSpecKey(CN, DA), CntlrSpec { primary, deleting, ..cntlr_spec() }).await;
        recorded(&store, Node::Cn(CN), of_legs(spec, false, &["a", "b"])).await.unwrap();
        assert!(store.get(&LegStateKey(DA, 0)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn the_member_that_has_been_there_longest_is_elected() {
    let store = store();
    let spec = put(&store, CntlrSpecKey(CN, DA), cntlr_spec()).await;
    recorded(&store, Node::Cn(CN), of_legs(spec, false, &["a", "b"])).await.unwrap();
    // The DN of a restarted its data plane at 2000.
    let vd = |id: &str, since_ms| VdStatus {
        vd_id: id.into(),
        status: Some(ResourceStatus { since_ms, ..status(Condition::Ready) }),
        ..VdStatus::default()
    };
    let vds = vec![vd("a", 2000), vd("b", 1000)];
    put(&store, ShareStatusKey(DN, DA), ShareStatus { schema_version: 1, vds, ..ShareStatus::default() })
        .await;
    let revision = leg(&store).await.revision;
    recorded(&store, Node::Cn(CN), of_legs(revision, true, &[])).await.unwrap();
    assert_eq!(leg(&store).await.value.in_sync, ["b"]);
}

#[tokio::test]
async fn the_boot_of_a_node_is_written_when_it_changes_and_only_then() {
    let store = store();
    put(&store, DnSpecKey(DN), DnSpec { schema_version: 1, ..DnSpec::default() }).await;
    let told = |boot: &str, free_bytes: u64| {
        let pds = vec![PdStatus { pd_id: "p".into(), free_bytes, ..PdStatus::default() }];
        let reported = Some(NodeStatus::Dn(DnStatus { boot: boot.into(), pds, ..DnStatus::default() }));
        Entry { node: Some(NodeEntry { reported, ..NodeEntry::default() }), components: Vec::new() }
    };
    let boot = async || store.get(&DnBootKey(DN)).await.unwrap();
    recorded(&store, Node::Dn(DN), told("", 1)).await.unwrap();
    assert!(boot().await.is_none(), "an agent that does not tell it");
    recorded(&store, Node::Dn(DN), told("000000000000b001", 1)).await.unwrap();
    let first = boot().await.unwrap();
    assert_eq!(first.value.boot, "000000000000b001");
    recorded(&store, Node::Dn(DN), told("000000000000b001", 2)).await.unwrap();
    recorded(&store, Node::Dn(DN), told("nonsense", 3)).await.unwrap();
    assert_eq!(boot().await.unwrap(), first);
    recorded(&store, Node::Dn(DN), told("000000000000b002", 3)).await.unwrap();
    assert_eq!(boot().await.unwrap().value.boot, "000000000000b002");
}
