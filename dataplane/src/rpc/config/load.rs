//! A saved configuration, loaded when the process starts: `--json FILE`, as `spdk_tgt` has it.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;
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

    /// Makes the calls that are possible only before the framework is initialised, or all others.
    ///
    /// # Errors
    /// The first refusal, with its method.
    pub async fn load(&self, app: &Rc<App>, methods: &Methods, startup: bool) -> Result<(), RpcError> {
        let is_startup = |call: &&ConfigEntry| methods.state_of(&call.method) == Some(State::Startup);
        for call in self.calls.iter().filter(|call| is_startup(call) == startup) {
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

async fn make(app: &Rc<App>, methods: &Methods, call: &ConfigEntry) -> Result<(), RpcError> {
    let params = call.params.as_ref().map(to_raw_value).transpose();
    let params = params.map_err(|error| RpcError::internal(error.to_string()))?;
    methods.dispatch(app, &call.method, params.as_deref()).await.map(drop)
}
