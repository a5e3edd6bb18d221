//! One object of each kind, with every field set.

use vda_proto::v1::{cluster_summary::Nodes, *};

const CREATED: i64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z

pub(crate) fn status(condition: Condition) -> ResourceStatus {
    ResourceStatus { condition: condition.into(), since_ms: CREATED, ..Default::default() }
}

pub(crate) fn blocked(on: &str) -> ResourceStatus {
    ResourceStatus { on: on.into(), ..status(Condition::Blocked) }
}

fn failed() -> ResourceStatus {
    ResourceStatus {
        op: "bdev_aio_create".into(),
        code: -2,
        message: "No such file or directory".into(),
        ..status(Condition::Failed)
    }
}

fn listener(port: u16) -> NvmfListener {
    NvmfListener {
        trtype: "tcp".into(),
        adrfam: "ipv4".into(),
        traddr: "127.0.0.1".into(),
        trsvcid: port.to_string(),
    }
}

pub(crate) fn met() -> WatchReply {
    WatchReply { status: Some(status(Condition::Ready)), parts: vec![], met: true }
}

pub(crate) fn deleted() -> DeleteReply {
    DeleteReply { revision: 77, id: "00000000000000aa".into() }
}

fn capacity() -> PdCapacity {
    PdCapacity {
        pd_id: "00000000000000b1".into(),
        pd_name: "pd0".into(),
        offline: false,
        cluster_bytes: 4 << 20,
        total_bytes: 252 << 20,
        used_bytes: 72 << 20,
        live_vds: 1,
        deleting_vds: 0,
        qos_budget: Some(Qos { rw_ios_per_sec: 10_000, ..Default::default() }),
        qos_used: Some(Qos { rw_ios_per_sec: 2_000, ..Default::default() }),
    }
}

pub(crate) fn dn() -> Dn {
    Dn {
        spec: Some(DnSpec {
            schema_version: 1,
            dn_id: "00000000000000d1".into(),
            address: "127.0.0.1:9720".into(),
            listener: Some(listener(4420)),
            location: "rack1".into(),
            offline: false,
            deleting: false,
            created_ms: CREATED,
        }),
        revision: 12,
        status: Some(status(Condition::Ready)),
        observed: Some(DnStatus {
            schema_version: 1,
            dn_id: "00000000000000d1".into(),
            observed_generation: 11,
            agent: Some(status(Condition::Ready)),
            target: Some(status(Condition::Ready)),
            pds: vec![],
            boot: "00000000000000b7".into(),
        }),
        pds: vec![capacity()],
    }
}

pub(crate) fn pd() -> Pd {
    Pd {
        spec: Some(PdSpec {
            schema_version: 1,
            pd_id: "00000000000000b1".into(),
            pd_name: "pd0".into(),
            backend: Some(PdBackend {
                kind: Some(pd_backend::Kind::Aio(FileBackend { filename: "/var/lib/vda/pd0.img".into() })),
            }),
            offline: true,
            deleting: false,
            qos_budget: Some(Qos { rw_ios_per_sec: 10_000, ..Default::default() }),
            created_ms: CREATED,
        }),
        revision: 13,
        dn_address: "127.0.0.1:9720".into(),
        status: Some(failed()),
        capacity: Some(capacity()),
        observed: Some(PdStatus {
            pd_id: "00000000000000b1".into(),
            status: Some(failed()),
            initialised: true,
            lvs_uuid: "6d5f0f4e-5a5b-11ee-8c99-0242ac120002".into(),
            cluster_bytes: 4 << 20,
            total_bytes: 252 << 20,
            free_bytes: 180 << 20,
            observed_revision: 13,
            gone: false,
        }),
    }
}

pub(crate) fn cn() -> Cn {
    Cn {
        spec: Some(CnSpec {
            schema_version: 1,
            cn_id: "00000000000000c1".into(),
            address: "127.0.0.1:9820".into(),
            listener: Some(listener(4430)),
            location: String::new(),
            offline: false,
            deleting: false,
            created_ms: CREATED,
        }),
        revision: 14,
        status: Some(blocked("CN 127.0.0.1:9820: agent unreachable")),
        observed: None,
        capacity: Some(CnCapacity { max_cntlrs: 10_000, live_cntlrs: 3, ..Default::default() }),
    }
}

fn member(replica: u32) -> Member {
    Member {
        vd_id: format!("00000000000000e{replica}"),
        dn_id: format!("00000000000000d{replica}"),
        dn_address: format!("127.0.0.1:972{replica}"),
        pd_id: format!("00000000000000b{replica}"),
        nqn: format!("nqn.2016-06.io.vda:vd:00000000000000e{replica}"),
        listener: Some(listener(4420)),
        size_bytes: 72 << 20,
    }
}

pub(crate) fn da() -> Da {
    let set = MirrorSet { stripe: 0, members: vec![member(0), member(1)] };
    let group = GroupSpec { group: 0, strip_size_kib: 64, sets: vec![set] };
    Da {
        spec: Some(DaRecord {
            schema_version: 1,
            da_id: "00000000000000a1".into(),
            da_name: "da0".into(),
            size_bytes: 64 << 20,
            physical_size_bytes: 72 << 20,
            stripes: 1,
            strip_size_kib: 64,
            replicas: 2,
            qos: None,
            volume_uuid: "0b1f5a0e-5a5b-11ee-8c99-0242ac120002".into(),
            legs: vec![LegSpec { leg: 0, epoch: 1, groups: vec![group], ..Default::default() }],
            cntlrs: vec![CntlrPlace {
                cn_address: "127.0.0.1:9820".into(),
                primary: true,
                ..Default::default()
            }],
            exps: vec![exp_record()],
            created_ms: CREATED,
        }),
        revision: 15,
        status: Some(status(Condition::Degraded)),
        parts: vec![
            part("cn 127.0.0.1:9820", status(Condition::Ready), 0),
            part("dn 127.0.0.1:9720", status(Condition::Ready), 0),
            part("dn 127.0.0.1:9721", status(Condition::Ready), 0),
            part("vd 00000000000000e0", status(Condition::Ready), 0),
            part("vd 00000000000000e1", status(Condition::Degraded), 40),
            part("vd 00000000000000e0 on dn 127.0.0.1:9720", failed(), 0),
            part("vd 00000000000000e1 on dn 127.0.0.1:9721", status(Condition::Ready), 0),
        ],
        legs: vec![LegState { leg: 0, in_sync: vec!["00000000000000e0".into()], ..Default::default() }],
    }
}

fn part(name: &str, status: ResourceStatus, progress_percent: u32) -> PartStatus {
    PartStatus { part: name.into(), status: Some(status), progress_percent }
}

fn exp_record() -> ExpRecord {
    ExpRecord {
        exp_id: "00000000000000f1".into(),
        exp_name: "exp0a".into(),
        nqn: "nqn.2016-06.io.vda:exp:da0:exp0a:00000000000000f1".into(),
        initiator_nqns: vec!["nqn.2016-06.io.spdk:host0".into(), "nqn.2016-06.io.spdk:host1".into()],
        created_ms: CREATED,
    }
}

pub(crate) fn exp() -> Exp {
    let observed = ExpStatus {
        exp_id: "00000000000000f1".into(),
        status: Some(status(Condition::Ready)),
        ana_state: "optimized".into(),
        gone: false,
    };
    Exp {
        spec: Some(exp_record()),
        da_name: "da0".into(),
        revision: 16,
        status: Some(status(Condition::Ready)),
        paths: vec![ExpPath {
            cn_address: "127.0.0.1:9820".into(),
            listener: Some(listener(4430)),
            ana_state: "optimized".into(),
            observed: Some(observed),
        }],
        ns_uuid: "0b1f5a0e-5a5b-11ee-8c99-0242ac120002".into(),
        size_bytes: 64 << 20,
    }
}

pub(crate) fn summary() -> ClusterSummary {
    ClusterSummary {
        dns: Some(Nodes { total: 2, ready: 1, offline: 0, not_ready: 1 }),
        pds: Some(Nodes { total: 4, ready: 2, offline: 1, not_ready: 2 }),
        cns: Some(Nodes { total: 2, ready: 2, offline: 0, not_ready: 0 }),
        total_bytes: 1008 << 20,
        used_bytes: 144 << 20,
        das: 1,
        exps: 1,
        monitors: 1,
        deleting: 0,
        problems: vec!["DN 127.0.0.1:9721: agent unreachable".into()],
    }
}
