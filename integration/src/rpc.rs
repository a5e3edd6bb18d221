//! SPDK's JSON-RPC as anybody would speak it, without our own client: the tests judge that as well.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Calls `method` on the target at `socket`. `params` may be null.
pub(crate) async fn call(socket: &Path, method: &str, params: Value) -> anyhow::Result<Value> {
    let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    if !params.is_null() {
        request["params"] = params;
    }
    timeout(LIMIT, exchange(socket, &request))
        .await
        .with_context(|| format!("{method}: no answer in {LIMIT:?}"))?
}

async fn exchange(socket: &Path, request: &Value) -> anyhow::Result<Value> {
    let mut stream =
        UnixStream::connect(socket).await.with_context(|| format!("connecting to {}", socket.display()))?;
    stream.write_all(&serde_json::to_vec(request)?).await?;
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            bail!("{}: the target closed the connection", request["method"]);
        }
        match serde_json::from_slice::<Value>(&received) {
            Ok(answer) if answer["error"].is_null() => return Ok(answer["result"].clone()),
            Ok(answer) => bail!("{}: {}", request["method"], answer["error"]),
            Err(error) if error.is_eof() => {}
            Err(error) => return Err(error.into()),
        }
    }
}
