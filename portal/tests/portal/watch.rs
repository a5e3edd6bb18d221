//! Following what becomes of a request.

use crate::on_both;

on_both!(until_ready, until_gone, what_cannot_be_followed);

mod run {
    use std::time::Duration;

    use tonic::{Code, Streaming};
    use vda_proto::v1::{self, Condition, resource_ref::Kind, watch_request::Until};

    use crate::bed::{Bed, GIB, MIB, da};

    async fn follow(
        bed: &Bed,
        kind: Kind,
        name: &str,
        until: Until,
        min_revision: u64,
        id: &str,
    ) -> Streaming<v1::WatchReply> {
        let request = v1::WatchRequest {
            resource: Some(v1::ResourceRef { kind: kind.into(), name: name.into() }),
            until: until.into(),
            min_revision,
            id: id.into(),
        };
        bed.client().watch(request).await.unwrap().into_inner()
    }

    async fn next(stream: &mut Streaming<v1::WatchReply>) -> Option<v1::WatchReply> {
        tokio::time::timeout(Duration::from_secs(60), stream.message())
            .await
            .expect("an answer within a minute")
            .unwrap()
    }

    /// Reads until met; the stream must end then.
    async fn met(mut stream: Streaming<v1::WatchReply>) {
        loop {
            let reply = next(&mut stream).await.expect("not ended before it is met");
            if reply.met {
                assert_eq!(next(&mut stream).await, None);
                return;
            }
        }
    }

    pub(super) async fn until_ready(bed: Bed) {
        bed.add_dn("dn0:9720", "").await.unwrap();
        let pd = bed.add_pd("dn0:9720", "pd0", GIB).await.unwrap();
        let cn = bed.add_cn("cn0:9820", 0).await.unwrap();
        let dn_ready = follow(&bed, Kind::Dn, "dn0:9720", Until::Ready, 0, "").await;
        let mut pd_ready = follow(&bed, Kind::Pd, "dn0:9720/pd0", Until::Ready, pd.revision, "").await;
        let cn_ready = follow(&bed, Kind::Cn, "cn0:9820", Until::Ready, cn.revision, "").await;
        let waits = next(&mut pd_ready).await.unwrap();
        assert_eq!(waits.status.unwrap().on, "DN dn0:9720: its agent has not been reached yet");
        bed.report().await;
        met(dn_ready).await;
        met(pd_ready).await;
        met(cn_ready).await;
        let made = bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let mut da_ready = follow(&bed, Kind::Da, "da0", Until::Ready, made.revision, "").await;
        assert_eq!(next(&mut da_ready).await.unwrap().status.unwrap().condition(), Condition::Pending);
        let exp = bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        let exp_ready = follow(&bed, Kind::Exp, "da0/exp0", Until::Ready, exp.revision, "").await;
        bed.report().await;
        met(da_ready).await;
        met(exp_ready).await;
        met(follow(&bed, Kind::Exp, "da0/exp0", Until::Ready, 0, "").await).await;
    }

    pub(super) async fn until_gone(bed: Bed) {
        bed.cluster(1, GIB).await;
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        bed.add_exp("da0", "exp0", "nqn.2024-01.com.example:h").await.unwrap();
        let mut client = bed.client();
        let delete =
            v1::DeleteExpRequest { da_name: "da0".into(), exp_name: "exp0".into(), ..Default::default() };
        let exp = client.delete_exp(delete).await.unwrap().into_inner();
        let mut exp_gone = follow(&bed, Kind::Exp, "da0/exp0", Until::Gone, 0, &exp.id).await;
        let first = next(&mut exp_gone).await.unwrap();
        assert_eq!((first.met, first.status.unwrap().condition()), (false, Condition::Deleting));
        let deleted = bed.delete_da("da0").await.unwrap();
        // Its name is used again at once; the id tells them apart.
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let mut da_gone = follow(&bed, Kind::Da, "da0", Until::Gone, 0, &deleted.id).await;
        assert!(!next(&mut da_gone).await.unwrap().met);
        bed.finish().await;
        met(exp_gone).await;
        met(da_gone).await;
        met(follow(&bed, Kind::Da, "da0", Until::Gone, 0, &deleted.id).await).await;
        met(follow(&bed, Kind::Da, "never", Until::Gone, 0, "").await).await;
        bed.delete_da("da0").await.unwrap();
        let pd = v1::DeletePdRequest {
            dn_address: "dn0:9720".into(),
            pd_name: "pd0".into(),
            ..Default::default()
        };
        let pd = client.delete_pd(pd).await.unwrap().into_inner();
        let dn = client
            .delete_dn(v1::DeleteDnRequest { address: "dn0:9720".into(), ..Default::default() })
            .await
            .unwrap()
            .into_inner();
        let cn = client
            .delete_cn(v1::DeleteCnRequest { address: "cn0:9820".into(), ..Default::default() })
            .await
            .unwrap()
            .into_inner();
        let pd_gone = follow(&bed, Kind::Pd, "dn0:9720/pd0", Until::Gone, 0, &pd.id).await;
        let dn_gone = follow(&bed, Kind::Dn, "dn0:9720", Until::Gone, 0, &dn.id).await;
        let cn_gone = follow(&bed, Kind::Cn, "cn0:9820", Until::Gone, 0, &cn.id).await;
        bed.finish().await;
        bed.finish().await;
        met(pd_gone).await;
        met(dn_gone).await;
        met(cn_gone).await;
        met(follow(&bed, Kind::Pd, "dn0:9720/pd0", Until::Gone, 0, &pd.id).await).await;
        bed.assert_clean().await;
    }

    pub(super) async fn what_cannot_be_followed(bed: Bed) {
        bed.cluster(1, GIB).await;
        for (kind, name, id, code) in [
            (Kind::Unspecified, "da0", "", Code::InvalidArgument),
            (Kind::Da, "a/b", "", Code::InvalidArgument),
            (Kind::Exp, "da0", "", Code::InvalidArgument),
            (Kind::Pd, "pd0", "", Code::InvalidArgument),
            (Kind::Dn, "pd0", "", Code::InvalidArgument),
            (Kind::Da, "da0", "nonsense", Code::InvalidArgument),
        ] {
            let request = v1::WatchRequest {
                resource: Some(v1::ResourceRef { kind: kind.into(), name: name.into() }),
                until: Until::Gone.into(),
                min_revision: 0,
                id: id.into(),
            };
            assert_eq!(bed.client().watch(request).await.unwrap_err().code(), code, "{name}");
        }
        let mut missing = follow(&bed, Kind::Da, "da0", Until::Ready, 0, "").await;
        assert_eq!(missing.message().await.unwrap_err().code(), Code::NotFound);
        bed.create_da(da("da0", 64 * MIB, 1)).await.unwrap();
        let mut deleted = follow(&bed, Kind::Da, "da0", Until::Unspecified, 0, "").await;
        next(&mut deleted).await.unwrap();
        bed.delete_da("da0").await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                match deleted.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("ended without a reason"),
                    Err(status) => return status,
                }
            }
        });
        assert_eq!(ended.await.unwrap().code(), Code::NotFound);
    }
}
