//! The gRPC service: a method for each call, and nothing else.

use tonic::{Request, Response, Status};
use vda_proto::v1;

use crate::{server::Portal, watch::Replies};

type Reply<T> = Result<Response<T>, Status>;

macro_rules! calls {
    ($($name:ident($request:ident) -> $reply:ident { $portal:ident, $message:ident => $call:expr })+) => {
        #[tonic::async_trait]
        impl v1::portal_server::Portal for Portal {
            $(
                async fn $name(&self, request: Request<v1::$request>) -> Reply<v1::$reply> {
                    let ($portal, $message) = (self, request.into_inner());
                    $call.await.map(Response::new)
                }
            )+

            type WatchStream = Replies;

            async fn watch(&self, request: Request<v1::WatchRequest>) -> Reply<Replies> {
                self.follow(request.into_inner()).await.map(Response::new)
            }
        }
    };
}

calls! {
    create_dn(CreateDnRequest) -> Dn { portal, m => Self::create_dn(portal, m) }
    delete_dn(DeleteDnRequest) -> DeleteReply { portal, m => Self::delete_dn(portal, m) }
    modify_dn(ModifyDnRequest) -> Dn { portal, m => Self::modify_dn(portal, m) }
    get_dn(GetDnRequest) -> Dn { portal, m => Self::get_dn(portal, &m.address) }
    list_dn(ListDnRequest) -> ListDnReply { portal, m => Self::list_dn(portal, m) }
    syncup_dn(SyncupDnRequest) -> SyncupReply { portal, m => Self::syncup_dn(portal, m) }
    create_pd(CreatePdRequest) -> Pd { portal, m => Self::create_pd(portal, m) }
    delete_pd(DeletePdRequest) -> DeleteReply { portal, m => Self::delete_pd(portal, m) }
    modify_pd(ModifyPdRequest) -> Pd { portal, m => Self::modify_pd(portal, m) }
    get_pd(GetPdRequest) -> Pd { portal, m => Self::get_pd(portal, &m.dn_address, &m.pd_name) }
    list_pd(ListPdRequest) -> ListPdReply { portal, m => Self::list_pd(portal, m) }
    create_cn(CreateCnRequest) -> Cn { portal, m => Self::create_cn(portal, m) }
    delete_cn(DeleteCnRequest) -> DeleteReply { portal, m => Self::delete_cn(portal, m) }
    modify_cn(ModifyCnRequest) -> Cn { portal, m => Self::modify_cn(portal, m) }
    get_cn(GetCnRequest) -> Cn { portal, m => Self::get_cn(portal, &m.address) }
    list_cn(ListCnRequest) -> ListCnReply { portal, m => Self::list_cn(portal, m) }
    syncup_cn(SyncupCnRequest) -> SyncupReply { portal, m => Self::syncup_cn(portal, m) }
    create_da(CreateDaRequest) -> Da { portal, m => Self::create_da(portal, m) }
    delete_da(DeleteDaRequest) -> DeleteReply { portal, m => Self::delete_da(portal, m) }
    modify_da(ModifyDaRequest) -> Da { portal, m => Self::modify_da(portal, m) }
    get_da(GetDaRequest) -> Da { portal, m => Self::get_da(portal, &m.da_name) }
    list_da(ListDaRequest) -> ListDaReply { portal, m => Self::list_da(portal, m) }
    create_exp(CreateExpRequest) -> Exp { portal, m => Self::create_exp(portal, m) }
    delete_exp(DeleteExpRequest) -> DeleteReply { portal, m => Self::delete_exp(portal, m) }
    modify_exp(ModifyExpRequest) -> Exp { portal, m => Self::modify_exp(portal, m) }
    get_exp(GetExpRequest) -> Exp { portal, m => Self::get_exp(portal, &m.da_name, &m.exp_name) }
    list_exp(ListExpRequest) -> ListExpReply { portal, m => Self::list_exp(portal, m) }
    get_cluster_summary(GetClusterSummaryRequest) -> ClusterSummary { portal, _m => portal.summary() }
}
