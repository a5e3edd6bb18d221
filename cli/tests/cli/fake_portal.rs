//! A portal that answers from fixtures, remembers what it was asked, and refuses or delays as told.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use tokio::{net::TcpListener, sync::oneshot};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};
use vda_proto::v1::{
    portal_server::{Portal, PortalServer},
    *,
};

use crate::fixtures;

/// What a call was, with the client's request id left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) request: String,
}

#[derive(Default)]
struct Script {
    refusal: Option<Status>,
    watch: Vec<Result<WatchReply, Status>>,
    watch_stays: bool,
    empty: bool,
    many: usize,
}

#[derive(Clone, Default)]
pub(crate) struct FakePortal {
    script: Arc<Mutex<Script>>,
    calls: Arc<Mutex<Vec<Call>>>,
    ids: Arc<Mutex<Vec<String>>>,
}

/// Serves until it is dropped.
pub(crate) struct Running {
    pub(crate) address: String,
    pub(crate) portal: FakePortal,
    _stop: oneshot::Sender<()>,
}

impl FakePortal {
    pub(crate) async fn start() -> Running {
        let portal = Self::default();
        portal.watch_says(vec![Ok(fixtures::met())]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = PortalServer::new(portal.clone());
        let serve = Server::builder().add_service(service).serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async {
                let _ = stopped.await;
            },
        );
        tokio::spawn(serve);
        Running { address, portal, _stop: stop }
    }

    pub(crate) fn refuse(&self, status: Status) {
        self.script.lock().unwrap().refusal = Some(status);
    }

    pub(crate) fn watch_says(&self, replies: Vec<Result<WatchReply, Status>>) {
        self.script.lock().unwrap().watch = replies;
    }

    /// After what it says the watch goes on in silence.
    pub(crate) fn watch_stays(&self) {
        self.script.lock().unwrap().watch_stays = true;
    }

    /// Lists are empty.
    pub(crate) fn empty(&self) {
        self.script.lock().unwrap().empty = true;
    }

    /// DAs are listed in `pages` pages of one.
    pub(crate) fn many(&self, pages: usize) {
        self.script.lock().unwrap().many = pages;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The `x-request-id` of every call.
    pub(crate) fn request_ids(&self) -> Vec<String> {
        self.ids.lock().unwrap().clone()
    }

    fn answer<Q: std::fmt::Debug, R>(
        &self,
        method: &'static str,
        request: &Request<Q>,
        reply: R,
    ) -> Result<Response<R>, Status> {
        let id = request.metadata().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.ids.lock().unwrap().push(id.to_owned());
        let request = without_request_id(&format!("{:?}", request.get_ref()));
        self.calls.lock().unwrap().push(Call { method, request });
        match &self.script.lock().unwrap().refusal {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(reply)),
        }
    }

    fn list<T>(&self, one: T) -> Vec<T> {
        if self.script.lock().unwrap().empty { vec![] } else { vec![one] }
    }
}

fn without_request_id(debug: &str) -> String {
    match debug.split_once("request_id: \"") {
        Some((before, rest)) => format!("{before}{}", rest.split_once("\", ").expect("not the last field").1),
        None => debug.to_owned(),
    }
}

macro_rules! portal {
    ($($method:ident($request:ident) -> $reply:ident = |$portal:ident, $asked:ident| $answer:expr;)*) => {
        #[tonic::async_trait]
        impl Portal for FakePortal {
            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$reply>, Status> {
                let ($portal, $asked) = (self, request.get_ref());
                let reply = $answer;
                self.answer(stringify!($method), &request, reply)
            })*

            type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchReply, Status>> + Send>>;

            async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
                self.answer("watch", &request, ())?;
                let script = self.script.lock().unwrap();
                let said = tokio_stream::iter(script.watch.clone());
                Ok(Response::new(match script.watch_stays {
                    true => Box::pin(said.chain(tokio_stream::pending())),
                    false => Box::pin(said),
                }))
            }
        }
    };
}

portal! {
    create_dn(CreateDnRequest) -> Dn = |_portal, _asked| fixtures::dn();
    delete_dn(DeleteDnRequest) -> DeleteReply = |_portal, _asked| fixtures::deleted();
    modify_dn(ModifyDnRequest) -> Dn = |_portal, _asked| fixtures::dn();
    get_dn(GetDnRequest) -> Dn = |_portal, _asked| fixtures::dn();
    list_dn(ListDnRequest) -> ListDnReply = |portal, _asked| ListDnReply { dns: portal.list(fixtures::dn()), next_page_token: String::new() };
    syncup_dn(SyncupDnRequest) -> SyncupReply = |_portal, _asked| SyncupReply { generation: 42 };
    create_pd(CreatePdRequest) -> Pd = |_portal, _asked| fixtures::pd();
    delete_pd(DeletePdRequest) -> DeleteReply = |_portal, _asked| fixtures::deleted();
    modify_pd(ModifyPdRequest) -> Pd = |_portal, _asked| fixtures::pd();
    get_pd(GetPdRequest) -> Pd = |_portal, _asked| fixtures::pd();
    list_pd(ListPdRequest) -> ListPdReply = |portal, _asked| ListPdReply { pds: portal.list(fixtures::pd()), next_page_token: String::new() };
    create_cn(CreateCnRequest) -> Cn = |_portal, _asked| fixtures::cn();
    delete_cn(DeleteCnRequest) -> DeleteReply = |_portal, _asked| fixtures::deleted();
    modify_cn(ModifyCnRequest) -> Cn = |_portal, _asked| fixtures::cn();
    get_cn(GetCnRequest) -> Cn = |_portal, _asked| fixtures::cn();
    list_cn(ListCnRequest) -> ListCnReply = |portal, _asked| ListCnReply { cns: portal.list(fixtures::cn()), next_page_token: String::new() };
    syncup_cn(SyncupCnRequest) -> SyncupReply = |_portal, _asked| SyncupReply { generation: 43 };
    create_da(CreateDaRequest) -> Da = |_portal, _asked| fixtures::da();
    delete_da(DeleteDaRequest) -> DeleteReply = |_portal, _asked| fixtures::deleted();
    modify_da(ModifyDaRequest) -> Da = |_portal, _asked| fixtures::da();
    get_da(GetDaRequest) -> Da = |_portal, _asked| fixtures::da();
    list_da(ListDaRequest) -> ListDaReply = |portal, asked| {
        let page: usize = asked.page_token.parse().unwrap_or(0);
        let more = page + 1 < portal.script.lock().unwrap().many;
        let next_page_token = if more { (page + 1).to_string() } else { String::new() };
        ListDaReply { das: portal.list(fixtures::da()), next_page_token }
    };
    create_exp(CreateExpRequest) -> Exp = |_portal, _asked| fixtures::exp();
    delete_exp(DeleteExpRequest) -> DeleteReply = |_portal, _asked| fixtures::deleted();
    modify_exp(ModifyExpRequest) -> Exp = |_portal, _asked| fixtures::exp();
    get_exp(GetExpRequest) -> Exp = |_portal, _asked| fixtures::exp();
    list_exp(ListExpRequest) -> ListExpReply = |portal, _asked| ListExpReply { exps: portal.list(fixtures::exp()), next_page_token: String::new() };
    get_cluster_summary(GetClusterSummaryRequest) -> ClusterSummary = |portal, _asked| if portal.list(()).is_empty() { ClusterSummary::default() } else { fixtures::summary() };
}
