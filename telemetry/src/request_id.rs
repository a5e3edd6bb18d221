//! Request ids: one id follows a request through the logs of every process it touches.
//!
//! On the wire it is the metadata `x-request-id`. A server takes the caller's, or makes one when there is none or it is not usable,
//! opens the span `rpc{req_id, method}` around the handler, and answers with the same metadata. A client that runs inside such a
//! handler (or inside [`with_request_id`]) sends it on.

use std::fmt;
use std::future::Future;
use std::task::{Context, Poll};

use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};
use tracing::Instrument;
use tracing::instrument::Instrumented;

/// The metadata key.
pub const HEADER: &str = "x-request-id";

const MAX_LEN: usize = 64;

/// 1-64 characters of `[A-Za-z0-9._:/-]`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// A new one, 32 hex digits.
    #[must_use]
    pub fn generate() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// `None` unless it is 1-64 characters of `[A-Za-z0-9._:/-]`: it goes into logs and must not be able to forge a line.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:/-".contains(&c);
        ((1..=MAX_LEN).contains(&text.len()) && text.bytes().all(allowed)).then(|| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

tokio::task_local! {
    static CURRENT: RequestId;
}

/// The id of the request this task is serving, if it is serving one. Not inherited by tasks it spawns: wrap those with
/// [`with_request_id`].
#[must_use]
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs `work` as part of request `id`: its logs carry `req_id`, its calls send the id on.
pub fn with_request_id<F: Future>(id: RequestId, work: F) -> impl Future<Output = F::Output> {
    let span = tracing::info_span!("request", req_id = %id);
    CURRENT.scope(id, work.instrument(span))
}

/// Client interceptor: `FooClient::with_interceptor(channel, propagate)`. Sends the id of the current request, or a new one. An id that
/// the caller has put into the metadata itself stays.
///
/// # Errors
/// Never; the signature is tonic's.
#[allow(clippy::result_large_err)]
pub fn propagate(mut request: Request<()>) -> Result<Request<()>, Status> {
    if request.metadata().get(HEADER).is_none() {
        let id = current().unwrap_or_else(RequestId::generate);
        if let Ok(value) = MetadataValue::<Ascii>::try_from(id.as_str()) {
            request.metadata_mut().insert(HEADER, value);
        }
    }
    Ok(request)
}

/// Server side: `Server::builder().layer(RequestIdLayer)`. Handlers find the id with [`current`], or as the request extension
/// [`RequestId`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestIdLayer;

impl<S> tower::Layer<S> for RequestIdLayer {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestIdService { inner }
    }
}

/// See [`RequestIdLayer`].
#[derive(Clone, Debug)]
pub struct RequestIdService<S> {
    inner: S,
}

impl<S, B, R> tower::Service<http::Request<B>> for RequestIdService<S>
where
    S: tower::Service<http::Request<B>, Response = http::Response<R>>,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Answering<tokio::task::futures::TaskLocalFuture<RequestId, Instrumented<S::Future>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let sent = request.headers().get(HEADER).and_then(|v| v.to_str().ok()).and_then(RequestId::parse);
        let id = sent.unwrap_or_else(RequestId::generate);
        request.extensions_mut().insert(id.clone());
        let span =
            tracing::info_span!("rpc", req_id = %id, method = %request.uri().path().trim_start_matches('/'));
        let value = http::HeaderValue::from_str(id.as_str()).ok();
        // The span and the task-local also cover whatever the inner service does before its first await.
        let answer = CURRENT.sync_scope(id.clone(), || span.in_scope(|| self.inner.call(request)));
        Answering { inner: Box::pin(CURRENT.scope(id, answer.instrument(span))), value }
    }
}

/// The future of [`RequestIdService`]: puts the id into the answer.
#[derive(Debug)]
pub struct Answering<F> {
    inner: std::pin::Pin<Box<F>>,
    value: Option<http::HeaderValue>,
}

impl<F, R, E> Future for Answering<F>
where
    F: Future<Output = Result<http::Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.inner.as_mut().poll(cx));
        Poll::Ready(answer.map(|mut response| {
            if let Some(value) = self.value.take() {
                response.headers_mut().insert(HEADER, value);
            }
            response
        }))
    }
}

#[cfg(test)]
#[path = "request_id_tests.rs"]
mod tests;
