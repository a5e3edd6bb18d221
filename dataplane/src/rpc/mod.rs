//! SPDK's JSON-RPC: the table of methods, and how a call gets from its bytes to its handler.
//!
//! A family of methods is a file with `pub(super) fn register(methods: &mut Methods)`, called by [`Methods::all`]. A handler gets
//! the decoded call and answers `Result<Reply, RpcError>`:
//!
//! ```ignore
//! methods.method::<BdevMallocCreate>(State::Runtime, |app, call| async move {
//!     let name = app.bdevs.create_malloc(call).map_err(|e| RpcError::errno(e.errno()))?;
//!     Ok(name)
//! });
//! ```
//!
//! Handlers start in the order the requests arrive and run concurrently; answers leave when they are ready, in any order.

mod bad_params;
mod bdev;
mod bdev_nvme;
pub mod config;
mod framework;
mod iobuf;
mod lvol;
mod nvmf;
mod raid;
pub mod server;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::ready;
use std::rc::Rc;

use futures::future::LocalBoxFuture;
use serde_json::value::{RawValue, to_raw_value};
use vda_spdk::{Call, ConfigEntry, Errno, code};

use crate::app::{App, Phase};

/// What a method answers instead of a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    pub code: i64,
    pub message: Cow<'static, str>,
}

impl RpcError {
    /// Any code with any text.
    pub fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// `-errno` with `strerror`: what most bdev methods answer.
    pub fn errno(errno: Errno) -> Self {
        Self::new(errno.code(), errno.message())
    }

    /// -32602 with a text: what `nvmf_*` and many refusals of `bdev_lvol_*` answer.
    pub fn invalid_params(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }

    /// -32603 with a text.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code::INTERNAL_ERROR, message)
    }
}

impl From<Errno> for RpcError {
    fn from(errno: Errno) -> Self {
        Self::errno(errno)
    }
}

/// When a method may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Before `framework_start_init` only.
    Startup,
    /// After `framework_start_init` only.
    Runtime,
    /// Always.
    Any,
}

type Outcome = Result<Box<RawValue>, RpcError>;
type Handler = Box<dyn Fn(Rc<App>, Option<&RawValue>) -> LocalBoxFuture<'static, Outcome>>;

struct Method {
    state: State,
    handler: Handler,
}

/// The calls that would rebuild a subsystem's present state.
type ConfigDump = Box<dyn Fn(&App) -> Vec<ConfigEntry>>;

/// What a family of bdevs adds to the configuration: calls that need nothing, and parts.
type ConfigParts = Box<dyn Fn(&App) -> (Vec<ConfigEntry>, Vec<config::Part>)>;

/// A part of the process as `framework_get_subsystems` shows it.
struct Subsystem {
    name: &'static str,
    depends_on: &'static [&'static str],
    config: ConfigDump,
}

/// What introspection shows: which methods and subsystems there are.
#[derive(Default)]
struct Index {
    methods: RefCell<BTreeMap<&'static str, State>>,
    subsystems: RefCell<Vec<Subsystem>>,
    parts: RefCell<Vec<ConfigParts>>,
}

/// The table of methods.
#[derive(Default)]
pub struct Methods {
    table: BTreeMap<&'static str, Method>,
    index: Rc<Index>,
}

impl Methods {
    /// Every method of the data plane.
    pub fn all(app: &Rc<App>) -> Self {
        let mut methods = Self::default();
        framework::register(&mut methods);
        let iobuf = iobuf::register(&mut methods);
        config::register(&mut methods);
        bdev::register(&mut methods, app);
        lvol::register(&mut methods, app);
        bdev_nvme::register(&mut methods, app);
        raid::register(&mut methods, app);
        nvmf::register(&mut methods, app, &iobuf);
        methods
    }

    /// Registers the handler of `C`.
    ///
    /// # Panics
    /// If the method has a handler already: a mistake in the program, found when it starts.
    pub fn method<C: Call>(
        &mut self,
        state: State,
        handler: impl AsyncFn(Rc<App>, C) -> Result<C::Reply, RpcError> + 'static,
    ) {
        let handler = Rc::new(handler);
        let handler: Handler = Box::new(move |app, params| {
            let call = match decode::<C>(params) {
                Ok(call) => call,
                Err(error) => return Box::pin(ready(Err(error))),
            };
            let handler = Rc::clone(&handler);
            Box::pin(async move {
                let reply = handler(app, call).await?;
                to_raw_value(&reply)
                    .map_err(|error| RpcError::internal(format!("reply of {}: {error}", C::METHOD)))
            })
        });
        let previous = self.table.insert(C::METHOD, Method { state, handler });
        assert!(previous.is_none(), "two handlers for {}", C::METHOD);
        self.index.methods.borrow_mut().insert(C::METHOD, state);
    }

    /// Registers a subsystem for `framework_get_subsystems`, with the calls that would rebuild its present state for
    /// `framework_get_config`. Dependencies first.
    pub fn subsystem(
        &mut self,
        name: &'static str,
        depends_on: &'static [&'static str],
        config: impl Fn(&App) -> Vec<ConfigEntry> + 'static,
    ) {
        self.index.subsystems.borrow_mut().push(Subsystem { name, depends_on, config: Box::new(config) });
    }

    /// Registers what a family of bdevs adds to the configuration of the subsystem `bdev`.
    fn config_parts(&mut self, parts: impl Fn(&App) -> (Vec<ConfigEntry>, Vec<config::Part>) + 'static) {
        self.index.parts.borrow_mut().push(Box::new(parts));
    }

    /// When a method may be called; `None` if there is none of that name.
    pub(crate) fn state_of(&self, method: &str) -> Option<State> {
        self.table.get(method).map(|method| method.state)
    }

    /// Decodes `params` and starts the handler, or refuses.
    pub(crate) fn dispatch(
        &self,
        app: &Rc<App>,
        method: &str,
        params: Option<&RawValue>,
    ) -> LocalBoxFuture<'static, Outcome> {
        let Some(method) = self.table.get(method) else {
            return Box::pin(ready(Err(RpcError::new(code::METHOD_NOT_FOUND, "Method not found"))));
        };
        match refusal(method.state, app.phase()) {
            Some(error) => Box::pin(ready(Err(error))),
            None => (method.handler)(Rc::clone(app), params),
        }
    }
}

/// What SPDK answers to a method in the wrong phase.
fn refusal(state: State, phase: Phase) -> Option<RpcError> {
    let message = match (state, phase) {
        (State::Any, _) | (State::Startup, Phase::Startup) | (State::Runtime, Phase::Runtime) => return None,
        (State::Runtime, _) => {
            "Method may only be called after framework is initialized using framework_start_init RPC."
        }
        (State::Startup, _) => {
            "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter \
             and then issue this RPC before the framework_start_init RPC."
        }
    };
    Some(RpcError::new(code::INVALID_STATE, message))
}

fn decode<C: Call>(params: Option<&RawValue>) -> Result<C, RpcError> {
    let params = params.filter(|_| !bad_params::ignores_all(C::METHOD));
    let text = params.map_or("{}", RawValue::get);
    if params.is_some() && C::PARAMS.is_empty() {
        return Err(bad_params::no_parameters(C::METHOD));
    }
    // A struct could be read from an array as well; SPDK refuses that.
    if !text.starts_with('{') {
        return Err(bad_params::bad_parameters(C::METHOD));
    }
    let decoded = match bad_params::ignores_unknown(C::METHOD) {
        true => known_fields::<C>(text).and_then(serde_json::from_value),
        false => serde_json::from_str(text),
    };
    let decoded = decoded.map_err(|error| {
        tracing::info!(method = C::METHOD, %error, "bad parameters");
        bad_params::bad_parameters(C::METHOD)
    })?;
    bad_params::unknown_target(C::METHOD, text).map_or(Ok(decoded), Err)
}

/// The parameters without those that the method does not have.
fn known_fields<C: Call>(text: &str) -> serde_json::Result<serde_json::Value> {
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)?;
    let known = |name: &str| C::PARAMS.iter().any(|param| param.name == name);
    Ok(fields.into_iter().filter(|(name, _)| known(name)).collect())
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
