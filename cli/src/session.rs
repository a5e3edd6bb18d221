//! A connection to a portal: every call carries a request id and a deadline.

use std::{future::Future, time::Duration};

use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use vda_proto::v1::portal_client::PortalClient;

use crate::{args::Global, failure::Failure, output::Output};

/// Puts the session's request id into the metadata of every call; each hop writes it into its logs.
#[derive(Clone)]
pub(crate) struct RequestIds(MetadataValue<Ascii>);

impl Interceptor for RequestIds {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("x-request-id", self.0.clone());
        Ok(request)
    }
}

pub(crate) type Client = PortalClient<InterceptedService<Channel, RequestIds>>;

pub(crate) struct Session {
    client: Client,
    portal: String,
    request_id: String,
    timeout: Duration,
    pub(crate) output: Output,
}

impl Session {
    /// Connects, so that a portal that is not there is told apart from one that does not answer.
    pub(crate) async fn open(global: &Global, output: Output) -> Result<Self, Failure> {
        let request_id = uuid::Uuid::new_v4().to_string();
        let bad_address = |why: String| {
            Failure::usage(format!(
                "--portal {}: {why}; expected HOST:PORT, such as 127.0.0.1:9520",
                global.portal
            ))
        };
        let uri = match global.portal.split_once("://") {
            Some(_) => global.portal.clone(),
            None => format!("http://{}", global.portal),
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|e| bad_address(e.to_string()))?;
        if endpoint.uri().port().is_none() {
            return Err(bad_address("no port".to_owned()));
        }
        let channel = endpoint
            .connect_timeout(global.timeout)
            .connect()
            .await
            .map_err(|e| Failure::Connect { portal: global.portal.clone(), why: root_cause(&e) })?;
        let id = MetadataValue::try_from(&request_id).map_err(|e| Failure::usage(e.to_string()))?;
        // A listing of a big cluster is bigger than gRPC's default limit of 4 MiB.
        let client =
            PortalClient::with_interceptor(channel, RequestIds(id)).max_decoding_message_size(256 << 20);
        if global.verbose {
            crate::output::complain(&format!("portal {}, request id {request_id}\n", global.portal));
        }
        Ok(Self { client, portal: global.portal.clone(), request_id, timeout: global.timeout, output })
    }

    pub(crate) fn portal(&self) -> Client {
        self.client.clone()
    }

    /// The answer of a read. `about` names the object for messages: "da da0".
    pub(crate) async fn read<T>(
        &self,
        about: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.call(about, None, call).await
    }

    /// The answer of a call that changes something under the name `request_id`.
    pub(crate) async fn write<T>(
        &self,
        about: &str,
        request_id: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.call(about, Some(request_id), call).await
    }

    async fn call<T>(
        &self,
        about: &str,
        repeat_as: Option<&str>,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let answer = tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!(
                "no answer from portal {} in {}",
                self.portal,
                humantime::format_duration(self.timeout)
            )))
        });
        answer.map(Response::into_inner).map_err(|status| self.failed(about, repeat_as, status))
    }

    pub(crate) fn failed(&self, about: &str, repeat_as: Option<&str>, status: Status) -> Failure {
        Failure::Refused {
            about: about.to_owned(),
            status: Box::new(status),
            request_id: self.request_id.clone(),
            repeat_as: repeat_as.map(str::to_owned),
        }
    }
}

/// The innermost cause: "Connection refused (os error 111)" rather than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
