use super::*;

fn fields(error: Error) -> Vec<String> {
    match error {
        Error::Invalid(violations) => violations.into_iter().map(|v| v.field).collect(),
        other => panic!("not Invalid: {other}"),
    }
}

fn da() -> v1::CreateDaRequest {
    v1::CreateDaRequest { da_name: "da0".into(), size_bytes: 64 * MIB, ..Default::default() }
}

#[test]
fn the_defaults_of_a_da() {
    let new = new_da(&da()).unwrap();
    assert_eq!((new.stripes, new.replicas, new.strip_size_kib), (1, 1, 64));
}

#[test]
fn the_tutorials_da_is_accepted_and_gets_the_overhead_on_top() {
    let request = v1::CreateDaRequest {
        physical_size_bytes: 64 * MIB,
        cntlrs: 1,
        stripes: 1,
        strip_size_kib: 64,
        ..da()
    };
    assert!(new_da(&request).unwrap().leg_size().physical_bytes > 64 * MIB);
}

#[test]
fn sizes_that_are_refused() {
    for size_bytes in
        [0, 1, MIB - 1, MIB + 512, GIB + MIB, 3 * defaults::TIB + 4 * MIB, defaults::MAX_DA_BYTES + 32 * MIB]
    {
        let error = new_da(&v1::CreateDaRequest { size_bytes, ..da() }).unwrap_err();
        assert!(error.to_string().contains(&format!("size_bytes: \"{size_bytes}\"")), "{error}");
    }
}

#[test]
fn every_violation_is_reported() {
    let request = v1::CreateDaRequest {
        da_name: "a/b".into(),
        size_bytes: 0,
        replicas: 9,
        strip_size_kib: 3,
        ..Default::default()
    };
    assert_eq!(
        fields(new_da(&request).unwrap_err()),
        ["da_name", "size_bytes", "replicas", "strip_size_kib"]
    );
    let wide = v1::CreateDaRequest { stripes: u32::MAX, replicas: 8, ..da() };
    assert_eq!(fields(new_da(&wide).unwrap_err()), ["stripes"]);
}

#[test]
fn what_is_not_served_is_said() {
    for (request, field) in [
        (v1::CreateDaRequest { cntlrs: 2, ..da() }, "cntlrs"),
        (v1::CreateDaRequest { legs: 2, ..da() }, "legs"),
        (v1::CreateDaRequest { groups: 2, ..da() }, "groups"),
        (v1::CreateDaRequest { physical_size_bytes: MIB, ..da() }, "physical_size_bytes"),
    ] {
        let error = new_da(&request).unwrap_err();
        assert_eq!(error.code(), crate::Code::Unimplemented);
        assert!(error.to_string().starts_with(field), "{error}");
    }
}

#[test]
fn listeners() {
    let listener = |trtype: &str, adrfam: &str, traddr: &str, trsvcid: &str| v1::NvmfListener {
        trtype: trtype.into(),
        adrfam: adrfam.into(),
        traddr: traddr.into(),
        trsvcid: trsvcid.into(),
    };
    let create = |listener| {
        new_dn(&v1::CreateDnRequest { address: "localhost:9720".into(), listener, ..Default::default() })
    };
    let good = create(Some(listener("TCP", "IPv4", "127.0.0.1", "4420"))).unwrap();
    assert_eq!(good.listener, listener("tcp", "ipv4", "127.0.0.1", "4420"));
    assert!(create(Some(listener("tcp", "ipv6", "::1", "4420"))).is_ok());
    assert_eq!(fields(create(None).unwrap_err()), ["listener"]);
    for (bad, field) in [
        (listener("rdma", "ipv4", "127.0.0.1", "1"), "listener.trtype"),
        (listener("tcp", "ib", "127.0.0.1", "1"), "listener.adrfam"),
        (listener("tcp", "ipv6", "127.0.0.1", "1"), "listener.traddr"),
        (listener("tcp", "ipv4", "localhost", "1"), "listener.traddr"),
        (listener("tcp", "ipv4", "0.0.0.0", "1"), "listener.traddr"),
        (listener("tcp", "ipv4", "127.0.0.1", "0"), "listener.trsvcid"),
        (listener("tcp", "ipv4", "127.0.0.1", "65536"), "listener.trsvcid"),
    ] {
        assert_eq!(fields(create(Some(bad)).unwrap_err()), [field]);
    }
}

#[test]
fn backends() {
    use pd_backend::Kind;
    let create = |kind| {
        new_pd(&v1::CreatePdRequest {
            dn_address: "localhost:9720".into(),
            pd_name: "pd0".into(),
            backend: Some(v1::PdBackend { kind }),
            ..Default::default()
        })
    };
    let file = |name: &str| v1::FileBackend { filename: name.into() };
    let nvme = |traddr: &str| Some(Kind::Nvme(v1::NvmeBackend { traddr: traddr.into() }));
    assert!(create(Some(Kind::Malloc(v1::MallocBackend { size_bytes: 256 * MIB }))).is_ok());
    assert!(create(Some(Kind::Aio(file("/var/lib/vda/disk0")))).is_ok());
    assert!(create(nvme("0000:5e:00.0")).is_ok());
    assert!(create(None).is_err());
    assert!(create(Some(Kind::Malloc(v1::MallocBackend { size_bytes: 0 }))).is_err());
    assert!(create(Some(Kind::Malloc(v1::MallocBackend { size_bytes: 16 * MIB + 1 }))).is_err());
    assert!(create(Some(Kind::Uring(file("disk0")))).is_err());
    assert!(create(Some(Kind::Uring(file("/disk\n0")))).is_err());
    assert!(create(nvme("5e:00.0")).is_err());
    assert!(create(nvme("0000:5E:00.0")).is_err());
}

#[test]
fn hosts_of_an_exp() {
    let create = |nqns: &[&str]| {
        new_exp(&v1::CreateExpRequest {
            da_name: "da0".into(),
            exp_name: "exp0a".into(),
            initiator_nqns: nqns.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    };
    assert!(create(&["nqn.2016-06.io.spdk:host0"]).is_ok());
    assert!(create(&[]).is_err());
    assert!(create(&["nqn.2016-06.io.spdk:host0", "nqn.2016-06.io.spdk:host0"]).is_err());
    assert!(create(&["nqn.2016-06.io.vda:cntlr:0000000000000001:0:1"]).is_err());
    assert!(create(&["host0"]).is_err());
}
