//! The same request, several times.

use std::sync::Arc;

use tonic::Code;
use vda_store::{Fault, FlakyKv, MemKv};

use crate::{
    bed::{Bed, GIB, MIB, da},
    on_both,
};

on_both!(a_repeated_request_is_done_once, one_id_for_many_at_once);

mod run {
    use futures::future::join_all;
    use vda_model::keys::DaKey;
    use vda_proto::v1;

    use super::*;

    fn with_id(id: &str, name: &str) -> v1::CreateDaRequest {
        v1::CreateDaRequest { request_id: id.into(), ..da(name, 64 * MIB, 1) }
    }

    pub(super) async fn a_repeated_request_is_done_once(bed: Bed) {
        bed.cluster(1, GIB).await;
        let first = bed.create_da(with_id("r1", "da0")).await.unwrap();
        let other = bed.another().await;
        for portal in [&bed, &other] {
            assert_eq!(portal.create_da(with_id("r1", "da0")).await.unwrap(), first);
        }
        let reused = bed.create_da(with_id("r1", "da1")).await.unwrap_err();
        assert_eq!(reused.code(), Code::InvalidArgument, "{reused:?}");
        let other_method =
            v1::DeleteDaRequest { request_id: "r1".into(), da_name: "da0".into(), revision: 0 };
        assert_eq!(bed.client().delete_da(other_method).await.unwrap_err().code(), Code::InvalidArgument);
        let delete = v1::DeleteDaRequest { request_id: "r2".into(), da_name: "da0".into(), revision: 0 };
        let deleted = bed.client().delete_da(delete.clone()).await.unwrap().into_inner();
        assert_eq!(bed.client().delete_da(delete).await.unwrap().into_inner(), deleted);
        assert_eq!(
            bed.delete_da("da0").await.unwrap_err().code(),
            Code::NotFound,
            "without the id it is a new request"
        );
        assert_eq!(bed.create_da(with_id("r1", "da0")).await.unwrap(), first, "what the first one answered");
        bed.assert_clean().await;
    }

    pub(super) async fn one_id_for_many_at_once(bed: Bed) {
        bed.cluster(2, GIB).await;
        let other = bed.another().await;
        let calls = (0..20)
            .map(|n| if n % 2 == 0 { &bed } else { &other })
            .map(|p| p.create_da(with_id("r1", "da0")));
        let answers = join_all(calls).await;
        let first = answers[0].as_ref().unwrap();
        assert!(answers.iter().all(|a| a.as_ref().unwrap() == first));
        let snapshot = bed.assert_clean().await;
        assert_eq!(snapshot.all::<DaKey>().count(), 1);
    }
}

/// Commits whose answers are lost, whether applied or not, are neither lost nor doubled, with and without a `request_id`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answers_of_etcd_are_found_out() {
    let flaky = FlakyKv::new(Arc::new(MemKv::new()));
    let bed = Bed::over(Arc::new(flaky.clone())).await;
    bed.cluster(2, 4 * GIB).await;
    for (n, fault) in
        [Fault::ReplyLost, Fault::RequestLost, Fault::ReplyLost, Fault::RequestLost].into_iter().enumerate()
    {
        // Each time the books have changed behind the portal's back, too: what it knows is stale.
        bed.report().await;
        bed.touch_books(n as u64).await;
        flaky.plan([fault]);
        let made = bed.create_da(da(&format!("da{n}"), 64 * MIB, 2)).await.unwrap();
        assert!(made.revision > 0);
        bed.assert_clean().await;
    }
    flaky.plan([Fault::ReplyLost]);
    bed.delete_da("da0").await.unwrap();
    flaky.plan([Fault::RequestLost]);
    bed.delete_da("da1").await.unwrap();
    let snapshot = bed.assert_clean().await;
    assert_eq!(snapshot.all::<vda_model::keys::DaKey>().count(), 2);
    assert_eq!(snapshot.all::<vda_model::keys::DaTombstoneKey>().count(), 2);
}

/// A lease that has ended is replaced; the request is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_forgotten_after_a_day_and_the_lease_is_renewed() {
    let kv = MemKv::new();
    let bed = Bed::over(Arc::new(kv.clone())).await;
    bed.cluster(1, GIB).await;
    let request =
        |name: &str| vda_proto::v1::CreateDaRequest { request_id: "r1".into(), ..da(name, 64 * MIB, 1) };
    bed.create_da(request("da0")).await.unwrap();
    kv.advance(std::time::Duration::from_secs(23 * 3600));
    assert_eq!(
        bed.create_da(request("da1")).await.unwrap_err().code(),
        Code::InvalidArgument,
        "still remembered"
    );
    kv.advance(std::time::Duration::from_secs(3 * 3600));
    bed.create_da(request("da1")).await.unwrap();
    bed.assert_clean().await;
}
