use std::sync::Arc;

use prost::Message;
use tokio_util::sync::CancellationToken;
use vda_model::keys::{Prefix, Scope};
use vda_proto::v1::{
    CnSpec, CnStatus, CntlrSpec, CntlrStatus, DnShare, DnSpec, LegSpec, LegState, ShareStatus, VdSpec,
    VdStatus,
};
use vda_store::{Kv, MemKv, Store, Txn, WatchCache, Write};

use super::*;

const DN: DnId = DnId::new(1);
const CN: CnId = CnId::new(2);
const DA: DaId = DaId::new(3);

/// A cache over these records, each put by its own transaction.
async fn cache(records: Vec<(AnyKey, Vec<u8>)>) -> WatchCache {
    let kv = Arc::new(MemKv::new());
    for (key, value) in records {
        let put = Write::Put { key: key.path(&Prefix::default()), value: value.into(), lease: None };
        kv.commit(Txn { writes: vec![put], ..Txn::default() }).await.unwrap();
    }
    let store = Store::new(kv, Prefix::default());
    let cache = WatchCache::start(&store, vec![Scope::All], CancellationToken::new());
    assert!(cache.filled().await);
    cache
}

fn put<K: Key>(key: K, value: &K::Value) -> (AnyKey, Vec<u8>) {
    (key.any(), value.encode_to_vec())
}

fn share(deleting: bool) -> DnShare {
    let vds = vec![VdSpec { vd_id: "v".into(), ..VdSpec::default() }];
    DnShare {
        schema_version: 1,
        da_id: DA.to_string(),
        deleting,
        cn_id: CN.to_string(),
        vds,
        ..DnShare::default()
    }
}

fn node(condition: Condition) -> CnStatus {
    let ready = || Some(ResourceStatus { condition: Condition::Ready.into(), ..ResourceStatus::default() });
    let agent = Some(ResourceStatus { condition: condition.into(), ..ResourceStatus::default() });
    CnStatus { schema_version: 1, agent, target: ready(), ..CnStatus::default() }
}

/// A deleted share whose controller is still there.
fn deleted() -> Vec<(AnyKey, Vec<u8>)> {
    vec![
        put(DnSpecKey(DN), &DnSpec { schema_version: 1, ..DnSpec::default() }),
        put(DnGenKey(DN), &()),
        put(CnSpecKey(CN), &CnSpec { schema_version: 1, ..CnSpec::default() }),
        put(CntlrSpecKey(CN, DA), &CntlrSpec { schema_version: 1, deleting: true, ..CntlrSpec::default() }),
        put(CnStatusKey(CN), &node(Condition::Ready)),
        put(DnShareKey(DN, DA), &share(true)),
    ]
}

async fn told(records: Vec<(AnyKey, Vec<u8>)>, extent: Extent) -> (DnSyncRequest, Built) {
    let built =
        cache(records).await.read(|s| build(s, Node::Dn(DN), &extent, &BTreeSet::new())).unwrap().unwrap();
    let SyncRequest::Dn(request) = built.request.clone() else { panic!("for a CN") };
    (*request, built)
}

fn delta() -> Extent {
    Extent::Delta { base: 1, das: [DA].into() }
}

#[tokio::test]
async fn a_deletion_waits_for_its_controller() {
    let (request, built) = told(deleted(), Extent::Full).await;
    assert_eq!(request.shares.len(), 1, "not listing it would mean that it is not wanted");
    assert!(!request.shares[0].spec.as_ref().unwrap().deleting);
    assert_eq!(built.held, [DA].into());
    let (request, built) = told(deleted(), delta()).await;
    assert!(request.shares.is_empty() && request.removed_da_ids.is_empty() && built.empty);
    assert_eq!(built.held, [DA].into());
}

#[tokio::test]
async fn a_deletion_goes_on_when_the_controller_is_gone_or_cannot_say() {
    let gone =
        CntlrStatus { schema_version: 1, gone: true, observed_revision: 1000, ..CntlrStatus::default() };
    let mut reasons = vec![deleted(), deleted(), deleted(), deleted(), deleted()];
    reasons[0].push(put(CntlrStatusKey(CN, DA), &gone));
    reasons[1].retain(|(key, _)| *key != CntlrSpecKey(CN, DA).any());
    reasons[2].retain(|(key, _)| *key != CnSpecKey(CN).any());
    reasons[3].push(put(CnStatusKey(CN), &node(Condition::Failed)));
    reasons[4].retain(|(key, _)| *key != CnStatusKey(CN).any());
    for records in reasons {
        for extent in [Extent::Full, delta()] {
            let (request, built) = told(records.clone(), extent).await;
            assert!(request.shares[0].spec.as_ref().unwrap().deleting && built.held.is_empty());
        }
    }
}

#[tokio::test]
async fn an_old_word_of_the_controller_does_not_count() {
    let gone = CntlrStatus { schema_version: 1, gone: true, observed_revision: 1, ..CntlrStatus::default() };
    let mut records = deleted();
    records.push(put(CntlrStatusKey(CN, DA), &gone));
    assert_eq!(told(records, Extent::Full).await.1.held, [DA].into());
}

#[tokio::test]
async fn what_was_initialised_once_is_told() {
    let mut records = deleted();
    records.retain(|(key, _)| *key != DnShareKey(DN, DA).any());
    records.push(put(DnShareKey(DN, DA), &share(false)));
    let vds = vec![VdStatus { vd_id: "v".into(), initialised: true, ..VdStatus::default() }];
    records
        .push(put(ShareStatusKey(DN, DA), &ShareStatus { schema_version: 1, vds, ..ShareStatus::default() }));
    let (request, _) = told(records, Extent::Full).await;
    assert_eq!(request.shares[0].initialised_vd_ids, ["v"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_withholds_everything() {
    let mut records = deleted();
    records.push((DnShareKey(DN, DaId::new(9)).any(), vec![0xff, 0xff]));
    let cache = cache(records).await;
    let error = cache.read(|s| build(s, Node::Dn(DN), &Extent::Full, &BTreeSet::new())).unwrap_err();
    assert!(matches!(error, KvError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_longer_there_is_told_as_removed() {
    let mut records = deleted();
    records.retain(|(key, _)| *key != DnShareKey(DN, DA).any());
    let (request, built) = told(records, delta()).await;
    assert_eq!(request.removed_da_ids, [DA.to_string()]);
    assert!(!built.empty);
}

#[tokio::test]
async fn a_controllers_revision_counts_its_legs() {
    let spec = CntlrSpec { schema_version: 1, legs: vec![LegSpec::default()], ..CntlrSpec::default() };
    let records = vec![
        put(CnSpecKey(CN), &CnSpec { schema_version: 1, ..CnSpec::default() }),
        put(CnGenKey(CN), &()),
        put(CntlrSpecKey(CN, DA), &spec),
        put(LegStateKey(DA, 0), &LegState { schema_version: 1, ..LegState::default() }),
    ];
    let cache = cache(records).await;
    let built = cache.read(|s| build(s, Node::Cn(CN), &Extent::Full, &BTreeSet::new())).unwrap().unwrap();
    let SyncRequest::Cn(request) = built.request else { panic!("for a DN") };
    let leg = cache.read(|s| s.revision_of(&LegStateKey(DA, 0).any()));
    assert_eq!((request.cntlrs[0].revision, request.cntlrs[0].legs.len()), (leg, 1));
}

#[tokio::test]
async fn members_of_mirrors_are_named_by_the_boots_of_their_nodes() {
    use vda_model::ids::VdId;
    use vda_proto::v1::{BootRecord, GroupSpec, MirrorSet};
    let nqn = |vd: u64| OwnedName::VdSubsystem(VdId::new(vd), None).to_string();
    let member = |vd: u64, dn: u64| Member {
        vd_id: VdId::new(vd).into(),
        dn_id: DnId::new(dn).into(),
        nqn: nqn(vd),
        ..Member::default()
    };
    let sets = vec![
        MirrorSet { stripe: 0, members: vec![member(1, 1), member(2, 2)] },
        MirrorSet { stripe: 1, members: vec![member(3, 1)] },
    ];
    let groups = vec![GroupSpec { sets, ..GroupSpec::default() }];
    let legs = vec![LegSpec { groups, ..LegSpec::default() }];
    let boot = BootRecord { schema_version: 1, dn_id: DN.into(), boot: "000000000000b001".into() };
    let cache = cache(vec![
        put(CnSpecKey(CN), &CnSpec { schema_version: 1, ..CnSpec::default() }),
        put(CnGenKey(CN), &()),
        put(CntlrSpecKey(CN, DA), &CntlrSpec { schema_version: 1, legs, ..CntlrSpec::default() }),
        put(DnBootKey(DN), &boot),
    ])
    .await;
    let built = cache.read(|s| build(s, Node::Cn(CN), &Extent::Full, &BTreeSet::new())).unwrap().unwrap();
    let SyncRequest::Cn(mut request) = built.request else { panic!("for a DN") };
    let told = request.cntlrs.remove(0);
    assert_eq!(
        told.revision,
        cache.read(|s| s.revision_of(&DnBootKey(DN).any())),
        "never back to an older name"
    );
    let names: Vec<String> = told.spec.unwrap().legs[0].groups[0]
        .sets
        .iter()
        .flat_map(|s| &s.members)
        .map(|m| m.nqn.clone())
        .collect();
    let booted = format!("{}:000000000000b001", nqn(1));
    assert_eq!(names, [booted, String::new(), nqn(3)], "known, not known yet, not mirrored");
}
