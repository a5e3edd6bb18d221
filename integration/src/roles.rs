//! The processes of a cluster and their command lines.

use std::{ffi::OsString, fmt, path::PathBuf};

use serde_json::json;

use crate::{binaries, cluster::Layout, data_plane, process::Spec};

/// One process. Numbers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The one etcd.
    Etcd,
    /// A portal.
    Portal(usize),
    /// A monitor.
    Monitor(usize),
    /// The data plane of a disk node.
    DnTarget(usize),
    /// The agent of a disk node.
    DnAgent(usize),
    /// The data plane of a controller node.
    CnTarget(usize),
    /// The agent of a controller node.
    CnAgent(usize),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd => write!(f, "etcd"),
            Self::Portal(n) => write!(f, "portal{n}"),
            Self::Monitor(n) => write!(f, "monitor{n}"),
            Self::DnTarget(n) => write!(f, "dn{n}-target"),
            Self::DnAgent(n) => write!(f, "dn{n}-agent"),
            Self::CnTarget(n) => write!(f, "cn{n}-target"),
            Self::CnAgent(n) => write!(f, "cn{n}-agent"),
        }
    }
}

/// How `role` is started in `layout`.
pub(crate) fn spec(role: Role, layout: &Layout) -> anyhow::Result<Spec> {
    let (program, args) = match role {
        Role::Etcd => (binaries::of_system("etcd")?, etcd(layout)),
        Role::Portal(n) => (binaries::of_workspace("vda_portal")?, portal(layout, n)),
        Role::Monitor(_) => (binaries::of_workspace("vda_monitor")?, store(layout)),
        Role::DnTarget(n) => target(layout, layout.socket(Role::DnTarget(n)), n)?,
        Role::CnTarget(n) => target(layout, layout.socket(Role::CnTarget(n)), layout.dns.len() + n)?,
        Role::DnAgent(n) => {
            let node = &layout.dns[n];
            let mut args = agent(layout, role, &node.agent.address(), node.nvmf.number());
            args.extend(words(["--boot-id-path", &node.boot.display().to_string()]));
            (binaries::of_workspace("vda_dn_agent")?, args)
        }
        Role::CnAgent(n) => {
            let node = &layout.cns[n];
            (
                binaries::of_workspace("vda_cn_agent")?,
                agent(layout, role, &node.agent.address(), node.nvmf.number()),
            )
        }
    };
    let log = layout.log(role);
    Ok(Spec { name: role.to_string(), program, args, log })
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

fn etcd(layout: &Layout) -> Vec<OsString> {
    let client = format!("http://{}", layout.etcd.address());
    let peer = format!("http://{}", layout.etcd_peer.address());
    let data = layout.dir().join("etcd").display().to_string();
    words([
        "--name=vda",
        "--data-dir",
        &data,
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
        "--initial-cluster",
        &format!("vda={peer}"),
        "--logger=zap",
        "--log-outputs=stderr",
    ])
}

fn store(layout: &Layout) -> Vec<OsString> {
    words(["--etcd-endpoints", &layout.etcd.address(), "--prefix", Layout::PREFIX])
}

fn portal(layout: &Layout, n: usize) -> Vec<OsString> {
    let mut args = words(["--portal-address", &layout.portals[n].address()]);
    args.extend(store(layout));
    args
}

/// The target of a node: it waits for its agent.
fn target(layout: &Layout, socket: PathBuf, nth: usize) -> anyhow::Result<(PathBuf, Vec<OsString>)> {
    let (program, mut args) =
        data_plane::nth_command(nth, &socket, &format!("vda-{}-{nth}", layout.etcd.number()))?;
    args.push("--wait-for-rpc".into());
    Ok((program, args))
}

fn agent(layout: &Layout, role: Role, address: &str, port: u16) -> Vec<OsString> {
    let target = match role {
        Role::DnAgent(n) => Role::DnTarget(n),
        Role::CnAgent(n) => Role::CnTarget(n),
        other => other,
    };
    let listener =
        json!({"trtype": "tcp", "traddr": layout.storage, "adrfam": "ipv4", "trsvcid": port.to_string()});
    words([
        "--address",
        address,
        "--sock-path",
        &layout.socket(target).display().to_string(),
        "--sock-timeout",
        "10",
        "--lis-conf",
        &listener.to_string(),
        "--tr-conf",
        r#"{"trtype":"TCP"}"#,
        "--state-dir",
        &layout.dir().join(role.to_string()).display().to_string(),
    ])
}
