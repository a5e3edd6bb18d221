//! What users get wrong.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::on_both;

on_both!(
    names,
    sizes,
    placement,
    unknown_things,
    duplicates,
    things_in_use,
    users_are_named,
    revisions,
    exporters
);

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|i| i.reason.clone()).unwrap_or_default()
}

/// The status is `code`, and its details say why and, for bad fields, which.
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, why: &str, field: &str) {
    let status = result.expect_err("must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(reason(&status), why, "{status:?}");
    if !field.is_empty() {
        let details = status.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| v.field.clone()).collect();
        assert!(fields.iter().any(|f| f == field), "{field} is not among {fields:?}");
    }
}

mod run {
    use super::*;
    use crate::bed::{Bed, GIB, MIB, da, listener};
    use vda_model::keys::DnCapacityKey;
    use vda_proto::v1;

    pub(super) async fn names(bed: Bed) {
        bed.cluster(1, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let long = "a".repeat(300);
        for bad in ["", "a/b", "größe", "-a", "a b", "a\n", &long] {
            let refused = |field| (Code::InvalidArgument, "INVALID_FIELD", field);
            let (code, why, field) = refused("da_name");
            assert_refused(bed.create_da(da(bad, 64 * MIB, 1)).await, code, why, field);
            assert_refused(bed.add_pd("dn0:9720", bad, GIB).await, code, why, "pd_name");
            assert_refused(bed.add_exp("da0", bad, "nqn.2024-01.com.example:h").await, code, why, "exp_name");
            assert_refused(bed.add_exp("da0", "exp0", bad).await, code, why, "initiator_nqns");
            assert_refused(bed.add_dn(bad, "").await, code, why, "address");
            assert_refused(bed.add_cn(bad, 0).await, code, why, "address");
        }
        let no_listener = v1::CreateDnRequest { address: "dn9:1".into(), ..Default::default() };
        assert_refused(
            bed.client().create_dn(no_listener).await,
            Code::InvalidArgument,
            "INVALID_FIELD",
            "listener",
        );
        let location = bed.add_dn("dn9:1", "rack 1").await;
        assert_refused(location, Code::InvalidArgument, "INVALID_FIELD", "location");
        let id = v1::CreateDnRequest {
            request_id: "x".repeat(65),
            address: "dn9:1".into(),
            listener: Some(listener(1)),
            ..Default::default()
        };
        assert_refused(
            bed.client().create_dn(id).await,
            Code::InvalidArgument,
            "INVALID_FIELD",
            "request_id",
        );
        let snapshot = bed.assert_clean().await;
        assert_eq!(snapshot.all::<vda_model::keys::DnSpecKey>().count(), 1, "nothing was created");
    }

    pub(super) async fn sizes(bed: Bed) {
        bed.cluster(1, GIB).await;
        for bad in [0, 1, MIB + 1, GIB + MIB, u64::MAX] {
            assert_refused(
                bed.create_da(da("da0", bad, 1)).await,
                Code::InvalidArgument,
                "INVALID_FIELD",
                "size_bytes",
            );
        }
        let strip = v1::CreateDaRequest { strip_size_kib: 48, ..da("da0", 64 * MIB, 1) };
        assert_refused(bed.create_da(strip).await, Code::InvalidArgument, "INVALID_FIELD", "strip_size_kib");
        for (request, field) in [
            (v1::CreateDaRequest { cntlrs: 2, ..da("da0", 64 * MIB, 1) }, "cntlrs"),
            (v1::CreateDaRequest { legs: 2, ..da("da0", 64 * MIB, 1) }, "legs"),
            (v1::CreateDaRequest { groups: 2, ..da("da0", 64 * MIB, 1) }, "groups"),
            (
                v1::CreateDaRequest { physical_size_bytes: MIB, ..da("da0", 64 * MIB, 1) },
                "physical_size_bytes",
            ),
        ] {
            assert_refused(bed.create_da(request).await, Code::Unimplemented, "NOT_SERVED", field);
        }
        for (pd, size) in [("pd1", 0), ("pd2", MIB), ("pd3", GIB + 1)] {
            let refused = bed.add_pd("dn0:9720", pd, size).await;
            assert_refused(refused, Code::InvalidArgument, "INVALID_FIELD", "backend.malloc.size_bytes");
        }
        let no_backend = v1::CreatePdRequest {
            dn_address: "dn0:9720".into(),
            pd_name: "pd1".into(),
            ..Default::default()
        };
        assert_refused(
            bed.client().create_pd(no_backend).await,
            Code::InvalidArgument,
            "INVALID_FIELD",
            "backend",
        );
    }

    pub(super) async fn placement(bed: Bed) {
        let nowhere = bed.create_da(da("da0", 64 * MIB, 1)).await;
        assert_refused(nowhere, Code::ResourceExhausted, "NO_PLACE", "");
        bed.cluster(2, GIB).await;
        let rules = |status: Status| -> Vec<String> {
            let details = status.get_error_details();
            let failed = details.precondition_failure().unwrap().violations.clone();
            failed.into_iter().map(|v| format!("{}: {}", v.subject, v.description)).collect()
        };
        let large = bed.create_da(da("da0", 2 * GIB, 1)).await.unwrap_err();
        assert_eq!((large.code(), reason(&large).as_str()), (Code::ResourceExhausted, "NO_PLACE"));
        let said = rules(large);
        assert_eq!(said.len(), 2, "every candidate is listed: {said:?}");
        assert!(
            said.iter().all(|s| s.starts_with("PD dn") && s.contains("free 1020MiB < needed")),
            "{said:?}"
        );
        let many = bed.create_da(da("da0", 64 * MIB, 3)).await.unwrap_err();
        assert_eq!(many.code(), Code::ResourceExhausted);
        assert!(rules(many).iter().any(|s| s.contains("already holds a replica")));
        // A node that was taken offline, a PD that was not reported yet.
        let offline =
            v1::ModifyDnRequest { address: "dn0:9720".into(), offline: Some(true), ..Default::default() };
        bed.client().modify_dn(offline).await.unwrap();
        bed.add_pd("dn1:9720", "pd1", GIB).await.unwrap();
        let mirrored = rules(bed.create_da(da("da0", 64 * MIB, 2)).await.unwrap_err());
        assert!(mirrored.contains(&"PD dn0:9720/pd0: offline".to_owned()), "{mirrored:?}");
        assert!(
            mirrored.iter().any(|s| s.starts_with("PD dn1:9720/pd1: ") && s.contains("not reported")),
            "{mirrored:?}"
        );
        bed.assert_clean().await;
    }

    pub(super) async fn unknown_things(bed: Bed) {
        let missing = |code| assert_eq!(code, Code::NotFound);
        let mut client = bed.client();
        missing(client.get_dn(v1::GetDnRequest { address: "dn9:1".into() }).await.unwrap_err().code());
        missing(client.get_cn(v1::GetCnRequest { address: "cn9:1".into() }).await.unwrap_err().code());
        missing(client.get_da(v1::GetDaRequest { da_name: "da9".into() }).await.unwrap_err().code());
        missing(
            client
                .delete_dn(v1::DeleteDnRequest { address: "dn9:1".into(), ..Default::default() })
                .await
                .unwrap_err()
                .code(),
        );
        missing(
            client
                .delete_cn(v1::DeleteCnRequest { address: "cn9:1".into(), ..Default::default() })
                .await
                .unwrap_err()
                .code(),
        );
        missing(client.syncup_dn(v1::SyncupDnRequest { address: "dn9:1".into() }).await.unwrap_err().code());
        missing(client.syncup_cn(v1::SyncupCnRequest { address: "cn9:1".into() }).await.unwrap_err().code());
        missing(bed.delete_da("da9").await.unwrap_err().code());
        missing(bed.add_pd("dn9:1", "pd0", GIB).await.unwrap_err().code());
        missing(bed.add_exp("da9", "exp0", "nqn.2024-01.com.example:h").await.unwrap_err().code());
        bed.cluster(1, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let pd = v1::GetPdRequest { dn_address: "dn0:9720".into(), pd_name: "pd9".into() };
        let status = client.get_pd(pd).await.unwrap_err();
        let details = status.get_error_details();
        let resource = details.resource_info().unwrap();
        assert_eq!(
            (resource.resource_type.as_str(), resource.resource_name.as_str()),
            ("PD", "dn0:9720/pd9")
        );
        let exp =
            v1::DeleteExpRequest { da_name: "da0".into(), exp_name: "exp9".into(), ..Default::default() };
        missing(client.delete_exp(exp).await.unwrap_err().code());
        missing(
            client
                .get_exp(v1::GetExpRequest { da_name: "da0".into(), exp_name: "e".into() })
                .await
                .unwrap_err()
                .code(),
        );
    }

    pub(super) async fn duplicates(bed: Bed) {
        bed.cluster(1, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        assert_refused(bed.add_dn("dn0:9720", "").await, Code::AlreadyExists, "EXISTS", "");
        assert_refused(bed.add_cn("cn0:9820", 0).await, Code::AlreadyExists, "EXISTS", "");
        assert_refused(bed.add_pd("dn0:9720", "pd0", GIB).await, Code::AlreadyExists, "EXISTS", "");
        assert_refused(bed.create_da(da("da0", 64 * MIB, 1)).await, Code::AlreadyExists, "EXISTS", "");
        let exp = bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:i").await;
        assert_refused(exp, Code::AlreadyExists, "EXISTS", "");
        let backend = |filename: &str| {
            let kind = v1::pd_backend::Kind::Aio(v1::FileBackend { filename: filename.into() });
            Some(v1::PdBackend { kind: Some(kind) })
        };
        let file = |pd_name: &str| v1::CreatePdRequest {
            dn_address: "dn0:9720".into(),
            pd_name: pd_name.into(),
            backend: backend("/dev/sdb"),
            ..Default::default()
        };
        bed.client().create_pd(file("pd1")).await.unwrap();
        assert_refused(bed.client().create_pd(file("pd2")).await, Code::AlreadyExists, "EXISTS", "");
        bed.assert_clean().await;
    }

    pub(super) async fn things_in_use(bed: Bed) {
        bed.cluster(1, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        let mut client = bed.client();
        for force in [false, true] {
            let dn = client
                .delete_dn(v1::DeleteDnRequest { address: "dn0:9720".into(), force, ..Default::default() })
                .await;
            assert_refused(dn, Code::FailedPrecondition, "IN_USE", "");
            let pd = v1::DeletePdRequest {
                dn_address: "dn0:9720".into(),
                pd_name: "pd0".into(),
                force,
                ..Default::default()
            };
            assert_refused(client.delete_pd(pd).await, Code::FailedPrecondition, "IN_USE", "");
            let cn = client
                .delete_cn(v1::DeleteCnRequest { address: "cn0:9820".into(), force, ..Default::default() })
                .await;
            assert_refused(cn, Code::FailedPrecondition, "IN_USE", "");
        }
        let status = bed.delete_da("da0").await.unwrap_err();
        assert_eq!(status.message(), "DA da0 is in use by EXP da0/exp0");
        let details = status.get_error_details();
        assert_eq!(details.precondition_failure().unwrap().violations[0].subject, "EXP da0/exp0");
        let location = v1::ModifyDnRequest {
            address: "dn0:9720".into(),
            location: Some("rack1".into()),
            ..Default::default()
        };
        assert_refused(client.modify_dn(location).await, Code::FailedPrecondition, "IN_USE", "");
        bed.assert_clean().await;
    }

    pub(super) async fn users_are_named(bed: Bed) {
        let subjects = |status: &Status| -> Vec<String> {
            let details = status.get_error_details();
            details.precondition_failure().unwrap().violations.iter().map(|v| v.subject.clone()).collect()
        };
        bed.cluster(1, GIB).await;
        bed.add_pd("dn0:9720", "pd1", GIB).await.unwrap();
        bed.report().await;
        let mut on_pd1 = Vec::new();
        for n in 0..8 {
            let name = format!("da{n}");
            let record = bed.create_da(da(&name, 64 * MIB, 1)).await.unwrap().spec.unwrap();
            let member = &record.legs[0].groups[0].sets[0].members[0];
            let books = bed.snapshot().await;
            let (_, books) = books.all::<DnCapacityKey>().next().unwrap();
            let pd = books.value.pds.iter().find(|pd| pd.pd_id == member.pd_id).unwrap();
            if pd.pd_name == "pd1" && n != 7 {
                on_pd1.push(format!("DA {name}"));
            }
        }
        // What is being deleted is not in the way of a deletion.
        bed.delete_da("da7").await.unwrap();
        let mut client = bed.client();
        let delete_cn = v1::DeleteCnRequest { address: "cn0:9820".into(), ..Default::default() };
        let cn = client.delete_cn(delete_cn).await.unwrap_err();
        assert_eq!(
            cn.message(),
            "CN cn0:9820 is in use by DA da0, DA da1, DA da2, DA da3, DA da4 and 2 more"
        );
        assert_eq!(subjects(&cn), [0, 1, 2, 3, 4, 5, 6].map(|n| format!("DA da{n}")));
        let delete_pd = v1::DeletePdRequest {
            dn_address: "dn0:9720".into(),
            pd_name: "pd1".into(),
            ..Default::default()
        };
        let pd = client.delete_pd(delete_pd).await.unwrap_err();
        assert!(!on_pd1.is_empty() && on_pd1.len() < 7, "{on_pd1:?}");
        assert_eq!(subjects(&pd), on_pd1);
        let location = v1::ModifyDnRequest {
            address: "dn0:9720".into(),
            location: Some("rack1".into()),
            ..Default::default()
        };
        let moved = client.modify_dn(location).await.unwrap_err();
        assert_eq!(subjects(&moved).last().unwrap(), "DA da7 (being deleted)");
    }

    pub(super) async fn revisions(bed: Bed) {
        bed.cluster(1, GIB).await;
        let created = bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let got = bed.client().get_da(v1::GetDaRequest { da_name: "da0".into() }).await.unwrap().into_inner();
        assert_eq!(got.revision, created.revision);
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        let old = v1::DeleteExpRequest {
            da_name: "da0".into(),
            exp_name: "exp0".into(),
            revision: created.revision,
            ..Default::default()
        };
        assert_refused(bed.client().delete_exp(old).await, Code::Aborted, "REVISION_CHANGED", "");
        let dn =
            bed.client().get_dn(v1::GetDnRequest { address: "dn0:9720".into() }).await.unwrap().into_inner();
        let modify = |revision| v1::ModifyDnRequest {
            address: "dn0:9720".into(),
            revision,
            offline: Some(true),
            ..Default::default()
        };
        assert_refused(
            bed.client().modify_dn(modify(dn.revision - 1)).await,
            Code::Aborted,
            "REVISION_CHANGED",
            "",
        );
        let changed = bed.client().modify_dn(modify(dn.revision)).await.unwrap().into_inner();
        assert!(changed.revision > dn.revision && changed.spec.unwrap().offline);
        let again = bed.client().modify_dn(modify(0)).await.unwrap().into_inner();
        assert_eq!(again.revision, changed.revision, "nothing to change, nothing changed");
    }

    pub(super) async fn exporters(bed: Bed) {
        bed.cluster(1, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        let same_host = bed.add_exp("da0", "exp1", "nqn.2024-01.com.example:h").await;
        assert_refused(same_host, Code::InvalidArgument, "INVALID_FIELD", "initiator_nqns");
        let own = bed.add_exp("da0", "exp1", "nqn.2016-06.io.vda:cntlr:0000000000000001:0:1").await;
        assert_refused(own, Code::InvalidArgument, "INVALID_FIELD", "initiator_nqns");
        let second = bed.add_exp("da0", "exp1", "nqn.2024-01.com.example:other").await;
        assert_refused(second, Code::Unimplemented, "NOT_SERVED", "exp_name");
        let none =
            v1::CreateExpRequest { da_name: "da0".into(), exp_name: "exp1".into(), ..Default::default() };
        assert_refused(
            bed.client().create_exp(none).await,
            Code::InvalidArgument,
            "INVALID_FIELD",
            "initiator_nqns",
        );
        let modify = |add: &[&str], remove: &[&str]| v1::ModifyExpRequest {
            da_name: "da0".into(),
            exp_name: "exp0".into(),
            add_initiator_nqns: add.iter().map(ToString::to_string).collect(),
            remove_initiator_nqns: remove.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let (host, other) = ("nqn.2024-01.com.example:h", "nqn.2024-01.com.example:i");
        let last = bed.client().modify_exp(modify(&[], &[host])).await;
        assert_refused(last, Code::InvalidArgument, "INVALID_FIELD", "remove_initiator_nqns");
        let unknown = bed.client().modify_exp(modify(&[], &[other])).await;
        assert_refused(unknown, Code::InvalidArgument, "INVALID_FIELD", "remove_initiator_nqns");
        let changed = bed.client().modify_exp(modify(&[other], &[host])).await.unwrap().into_inner();
        assert_eq!(changed.spec.unwrap().initiator_nqns, [other]);
        bed.assert_clean().await;
    }
}
