//! A saved configuration, loaded when the process starts: `--json FILE`, as `spdk_tgt` has it.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::to_raw_value;
use vda_spdk::ConfigEntry;

use crate::app::App;
use crate::rpc::{Methods, RpcError, State};

/// Why a configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("configuration {path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is no configuration as save_config writes it")]
    Format {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The calls of a file that `save_config` wrote.
#[derive(Debug)]
pub struct Saved {
    calls: Vec<ConfigEntry>,
    /// Log what fails and go on (`--json-ignore-init-errors`).
    ignore_errors: bool,
}

#[derive(Deserialize)]
struct File {
    subsystems: Vec<Subsystem>,
}

#[derive(Deserialize)]
struct Subsystem {
    #[serde(rename = "subsystem")]
    _name: String,
    config: Option<Vec<Element>>,
}

/// A call, or several that SPDK may run at a time (`save_config --with-batches`).
#[derive(Deserialize)]
#[serde(untagged)]
enum Element {
    Call(ConfigEntry),
    Batch(Vec<ConfigEntry>),
}

impl Saved {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn read(path: &Path, ignore_errors: bool) -> Result<Self, LoadError> {
        let text = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let file: File = serde_json::from_slice(&text)
            .map_err(|source| LoadError::Format { path: path.to_owned(), source })?;
        let elements = file.subsystems.into_iter().filter_map(|s| s.config).flatten();
        let calls = elements.flat_map(|element| match element {
            Element::Call(call) => vec![call],
            Element::Batch(calls) => calls,
        });
        Ok(Self { calls: calls.collect(), ignore_errors })
    }

    /// Makes the calls that are possible only before the framework is initialised, or all others. What only sets options of parts that are
    /// absent here is left out, so that a file of SPDK loads.
    ///
    /// # Errors
    /// The first refusal, with its method.
    pub async fn load(&self, app: &Rc<App>, methods: &Methods, startup: bool) -> Result<(), RpcError> {
        let is_startup = |call: &&ConfigEntry| methods.state_of(&call.method) == Some(State::Startup);
        for call in self.calls.iter().filter(|call| is_startup(call) == startup) {
            if methods.state_of(&call.method).is_none() && sets_nothing(call) {
                tracing::info!(method = %call.method, "left out: it sets options of a part that is absent");
                continue;
            }
            if let Err(error) = make(app, methods, call).await {
                let error = RpcError::new(error.code, format!("{}: {}", call.method, error.message));
                if !self.ignore_errors {
                    return Err(error);
                }
                tracing::warn!(%error, "a call of the configuration failed");
            }
        }
        Ok(())
    }
}

/// Whether a call of SPDK's `save_config` sets options of what is absent here (`docs/spdk-compatibility.md`), or leaves those of the
/// NVMe-oF target as they are. Nothing that would make a device, an export or a secret is among them.
fn sets_nothing(call: &ConfigEntry) -> bool {
    let params = call.params.as_ref().unwrap_or(&Value::Null);
    match &*call.method {
        "framework_set_scheduler" | "sock_set_default_impl" | "sock_impl_set_options" => true,
        "accel_set_options" | "iscsi_set_options" | "nvmf_set_max_subsystems" => true,
        "nvmf_set_crdt" => ["crdt1", "crdt2", "crdt3"].iter().all(|name| is_off(&params[name])),
        "nvmf_set_config" => {
            is_off(&params["admin_cmd_passthru"])
                && is_off(&params["discovery_filters"])
                && matches!(params["discovery_filter"].as_str(), None | Some("match_any"))
                && matches!(params["dup_host_policy"].as_str(), None | Some("allow"))
        }
        _ => false,
    }
}

/// Whether nothing is asked for: zero, `false`, absent, or empty, all the way down.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_off),
        Value::Object(fields) => fields.values().all(is_off),
    }
}

async fn make(app: &Rc<App>, methods: &Methods, call: &ConfigEntry) -> Result<(), RpcError> {
    let params = call.params.as_ref().map(to_raw_value).transpose();
    let params = params.map_err(|error| RpcError::internal(error.to_string()))?;
    methods.dispatch(app, &call.method, params.as_deref()).await.map(drop)
}
