//! Everything from creation to the last trace.

use crate::on_both;

on_both!(
    the_tutorial,
    forced_deletions,
    a_name_can_be_used_again,
    summary_and_syncup,
    objects_say_what_is_in_the_way
);

mod run {
    use tonic::Code;
    use vda_model::keys::{AnyKey, CntlrSpecKey};
    use vda_proto::v1::{self, Condition};

    use crate::bed::{Bed, GIB, MIB, da};

    fn condition(status: Option<v1::ResourceStatus>) -> Condition {
        status.unwrap().condition()
    }

    pub(super) async fn the_tutorial(bed: Bed) {
        bed.add_dn("localhost:9720", "").await.unwrap();
        bed.add_pd("localhost:9720", "pd0", 256 * MIB).await.unwrap();
        bed.add_cn("localhost:9820", 0).await.unwrap();
        bed.report().await;
        let request = v1::CreateDaRequest {
            physical_size_bytes: 64 * MIB,
            cntlrs: 1,
            stripes: 1,
            strip_size_kib: 64,
            ..da("da0", 64 * MIB, 0)
        };
        let made = bed.create_da(request).await.unwrap();
        assert_eq!(condition(made.status), Condition::Pending);
        bed.add_exp("da0", "exp0a", "nqn.2016-06.io.spdk:host0").await.unwrap();
        let mut client = bed.client();
        bed.report().await;
        let got = client.get_da(v1::GetDaRequest { da_name: "da0".into() }).await.unwrap().into_inner();
        assert_eq!(condition(got.status), Condition::Ready);
        let exp = v1::GetExpRequest { da_name: "da0".into(), exp_name: "exp0a".into() };
        let exp = client.get_exp(exp).await.unwrap().into_inner();
        assert_eq!(condition(exp.status), Condition::Ready);
        assert_eq!(exp.paths[0].listener.as_ref().unwrap().trsvcid, "4430");
        let spec = exp.spec.unwrap();
        assert_eq!(spec.nqn, format!("nqn.2016-06.io.vda:exp:da0:exp0a:{}", spec.exp_id));
        let delete =
            v1::DeleteExpRequest { da_name: "da0".into(), exp_name: "exp0a".into(), ..Default::default() };
        client.delete_exp(delete).await.unwrap();
        bed.delete_da("da0").await.unwrap();
        let pd = v1::DeletePdRequest {
            dn_address: "localhost:9720".into(),
            pd_name: "pd0".into(),
            ..Default::default()
        };
        client.delete_pd(pd.clone()).await.expect("tombstones do not block it");
        client.delete_pd(pd).await.expect("deleting it again changes nothing");
        client
            .delete_cn(v1::DeleteCnRequest { address: "localhost:9820".into(), ..Default::default() })
            .await
            .unwrap();
        client
            .delete_dn(v1::DeleteDnRequest { address: "localhost:9720".into(), ..Default::default() })
            .await
            .unwrap();
        bed.assert_clean().await;
        bed.finish().await;
        bed.finish().await;
        let snapshot = bed.assert_clean().await;
        let left: Vec<&AnyKey> = snapshot.keys().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    pub(super) async fn forced_deletions(bed: Bed) {
        bed.cluster(2, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 2)).await.unwrap();
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        let mut client = bed.client();
        let exp =
            v1::DeleteExpRequest { da_name: "da0".into(), exp_name: "exp0".into(), ..Default::default() };
        client.delete_exp(exp).await.unwrap();
        bed.delete_da("da0").await.unwrap();
        // dn0 and the CN burn down. What dn1 has to confirm stays.
        let pd = v1::DeletePdRequest {
            dn_address: "dn0:9720".into(),
            pd_name: "pd0".into(),
            force: true,
            ..Default::default()
        };
        client.delete_pd(pd).await.unwrap();
        bed.assert_clean().await;
        let dn = v1::DeleteDnRequest { address: "dn0:9720".into(), force: true, ..Default::default() };
        client.delete_dn(dn).await.unwrap();
        let cn = v1::DeleteCnRequest { address: "cn0:9820".into(), force: true, ..Default::default() };
        client.delete_cn(cn).await.unwrap();
        let snapshot = bed.assert_clean().await;
        assert_eq!(snapshot.all::<vda_model::keys::DaTombstoneKey>().next().unwrap().1.value.dn_ids.len(), 1);
        assert_eq!(
            client.get_dn(v1::GetDnRequest { address: "dn0:9720".into() }).await.unwrap_err().code(),
            Code::NotFound
        );
        bed.finish().await;
        let snapshot = bed.assert_clean().await;
        assert_eq!(snapshot.all::<vda_model::keys::DaTombstoneKey>().count(), 0);
    }

    pub(super) async fn a_name_can_be_used_again(bed: Bed) {
        bed.cluster(2, GIB).await;
        let first = bed.create_da(da("da0", 64 * MIB, 2)).await.unwrap().spec.unwrap();
        bed.delete_da("da0").await.unwrap();
        let second = bed.create_da(da("da0", 64 * MIB, 2)).await.unwrap().spec.unwrap();
        assert_ne!(first.da_id, second.da_id);
        bed.assert_clean().await;
        bed.finish().await;
        let snapshot = bed.assert_clean().await;
        let left: Vec<_> = snapshot.all::<CntlrSpecKey>().map(|(_, c)| c.value.da_id).collect();
        assert_eq!(left, [second.da_id]);
        // A node's address is free once the node is gone.
        let mut client = bed.client();
        bed.delete_da("da0").await.unwrap();
        client
            .delete_cn(v1::DeleteCnRequest { address: "cn0:9820".into(), ..Default::default() })
            .await
            .unwrap();
        let early = bed.add_cn("cn0:9820", 0).await.unwrap_err();
        assert!(
            early.code() == Code::AlreadyExists && early.message().contains("being deleted"),
            "{early:?}"
        );
        bed.finish().await;
        bed.add_cn("cn0:9820", 0).await.unwrap();
        // One that was never reached is gone at once.
        bed.add_dn("typo:1", "").await.unwrap();
        client
            .delete_dn(v1::DeleteDnRequest { address: "typo:1".into(), ..Default::default() })
            .await
            .unwrap();
        bed.add_dn("typo:1", "").await.unwrap();
        bed.assert_clean().await;
    }

    pub(super) async fn summary_and_syncup(bed: Bed) {
        bed.cluster(2, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        bed.create_da(da("da1", 64 * MIB, 1)).await.unwrap();
        bed.delete_da("da1").await.unwrap();
        bed.add_dn("dn9:1", "").await.unwrap();
        let mut client = bed.client();
        let mut summary =
            client.get_cluster_summary(v1::GetClusterSummaryRequest {}).await.unwrap().into_inner();
        // The copy the watch keeps may be a moment behind.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while summary.dns.as_ref().unwrap().total != 3 || summary.dns.as_ref().unwrap().ready != 2 {
            assert!(std::time::Instant::now() < deadline, "{summary:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            summary = client.get_cluster_summary(v1::GetClusterSummaryRequest {}).await.unwrap().into_inner();
        }
        let dns = summary.dns.unwrap();
        assert_eq!((dns.total, dns.ready, dns.not_ready), (3, 2, 1));
        assert_eq!(summary.pds.unwrap().ready, 2);
        assert_eq!((summary.das, summary.exps, summary.deleting), (1, 1, 1));
        assert_eq!(summary.total_bytes, 2 * (GIB - 4 * MIB));
        assert_eq!(summary.used_bytes, 2 * 68 * MIB, "the one being deleted counts");
        assert!(
            summary.problems.iter().any(|p| p == "DN dn9:1: its agent has not been reached yet"),
            "{:?}",
            summary.problems
        );
        let first =
            client.syncup_dn(v1::SyncupDnRequest { address: "dn0:9720".into() }).await.unwrap().into_inner();
        let second =
            client.syncup_dn(v1::SyncupDnRequest { address: "dn0:9720".into() }).await.unwrap().into_inner();
        assert!(second.generation > first.generation);
        client.syncup_cn(v1::SyncupCnRequest { address: "cn0:9820".into() }).await.unwrap();
        let dn = client.get_dn(v1::GetDnRequest { address: "dn0:9720".into() }).await.unwrap().into_inner();
        let id = dn.spec.unwrap().dn_id.parse().unwrap();
        let snapshot = bed.assert_clean().await;
        assert_eq!(snapshot.get(&vda_model::keys::DnGenKey(id)).unwrap().revision, second.generation);
    }

    pub(super) async fn objects_say_what_is_in_the_way(bed: Bed) {
        bed.add_dn("dn0:9720", "").await.unwrap();
        bed.add_pd("dn0:9720", "pd0", GIB).await.unwrap();
        let mut client = bed.client();
        let get = v1::GetPdRequest { dn_address: "dn0:9720".into(), pd_name: "pd0".into() };
        let pd = client.get_pd(get.clone()).await.unwrap().into_inner();
        assert_eq!(pd.status.unwrap().on, "DN dn0:9720: its agent has not been reached yet");
        bed.add_cn("cn0:9820", 0).await.unwrap();
        bed.report().await;
        assert_eq!(condition(client.get_pd(get).await.unwrap().into_inner().status), Condition::Ready);
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let da = client.get_da(v1::GetDaRequest { da_name: "da0".into() }).await.unwrap().into_inner();
        assert_eq!(condition(da.status), Condition::Pending);
        let qos = v1::Qos { rw_ios_per_sec: 5000, ..Default::default() };
        let modify = v1::ModifyDaRequest { da_name: "da0".into(), qos: Some(qos), ..Default::default() };
        let changed = client.modify_da(modify).await.unwrap().into_inner();
        assert_eq!(changed.spec.unwrap().qos, Some(qos));
        let budget = v1::ModifyPdRequest {
            dn_address: "dn0:9720".into(),
            pd_name: "pd0".into(),
            qos_budget: Some(v1::Qos { rw_ios_per_sec: 6000, ..Default::default() }),
            ..Default::default()
        };
        let pd = client.modify_pd(budget).await.unwrap().into_inner();
        assert_eq!(pd.capacity.unwrap().qos_used, Some(qos));
        let more = v1::Qos { rw_ios_per_sec: 7000, ..Default::default() };
        let modify = v1::ModifyDaRequest { da_name: "da0".into(), qos: Some(more), ..Default::default() };
        assert_eq!(client.modify_da(modify).await.unwrap_err().code(), Code::ResourceExhausted);
        let max =
            v1::ModifyCnRequest { address: "cn0:9820".into(), max_cntlrs: Some(0), ..Default::default() };
        assert_eq!(client.modify_cn(max).await.unwrap_err().code(), Code::InvalidArgument);
        bed.assert_clean().await;
    }
}
