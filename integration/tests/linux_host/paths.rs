//! What the host thinks of the two paths to the subsystem under test.

use std::time::Duration;

use vda_integration::linux_host::{Guest, PATHS};

use crate::volume::{NQN, PORT};

/// For what the host finds out by itself: a lost connection, a new ANA state, a new size.
pub(crate) const NOTICED: Duration = Duration::from_secs(30);

/// Connects on both paths. The kernel refuses a controller that does not agree to both digests.
pub(crate) async fn connect(guest: &Guest) -> anyhow::Result<()> {
    for path in PATHS {
        let options =
            "--hdr-digest --data-digest --reconnect-delay=1 --ctrl-loss-tmo=600 --keep-alive-tmo=30";
        guest.sh(&format!("nvme connect -t tcp -a {path} -s {PORT} -n {NQN} {options}")).await?;
    }
    Ok(())
}

/// Waits until the host sees these ANA states, in the order of the paths, for all namespaces.
pub(crate) async fn have(guest: &Guest, states: [&str; 2]) -> anyhow::Result<()> {
    for (path, state) in states.into_iter().enumerate() {
        all_are(guest, path, "nvme*c*n*/ana_state", state).await?;
    }
    Ok(())
}

/// Waits until the controller behind a path is in this state of the kernel's: `live`, `connecting`.
pub(crate) async fn becomes(guest: &Guest, path: usize, state: &str) -> anyhow::Result<()> {
    all_are(guest, path, "state", state).await
}

/// Waits until these attributes of the controller behind a path have this value. Asked often, so without any process in the guest.
async fn all_are(guest: &Guest, path: usize, attributes: &str, value: &str) -> anyhow::Result<()> {
    let command = format!(
        "seen= other=; for c in /sys/class/nvme/nvme*; do read -r address <$c/address; case $address in *traddr={},*) \
         for file in $c/{attributes}; do seen=1; read -r is <$file; [ \"$is\" = {value} ] || other=1; done ;; esac; done; \
         [ \"$seen\" ] && [ -z \"$other\" ]",
        PATHS[path]
    );
    guest.until(&format!("path {path} is {value}"), NOTICED, &command).await.map(drop)
}
