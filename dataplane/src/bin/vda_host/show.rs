//! `discover` and `identify`.

use anyhow::Context;
use serde_json::{Value, json};
use vda_dataplane::initiator::{Group, Path, Session};
use vda_nvme::DISCOVERY_NQN;
use vda_nvme::log::{AnaState, DiscoveryEntry, SubsystemType};

use crate::args::{Discover, Format, Identify};
use crate::connect::connect;

pub(crate) async fn discover(a: Discover) -> anyhow::Result<()> {
    let options = a.host.options()?;
    let mut shown = Vec::new();
    for &address in &a.paths {
        let session = Session::connect(address, DISCOVERY_NQN, &options).await.context("discovery")?;
        let (generation, entries) =
            session.discover().await.with_context(|| format!("discovery at {address}"))?;
        session.shutdown().await;
        let records: Vec<Value> = entries.iter().map(record).collect();
        shown.push(json!({ "path": format!("tcp://{address}"), "genctr": generation, "records": records }));
    }
    match a.output {
        Format::Json => println!("{}", Value::from(shown)),
        Format::Text => shown.iter().for_each(print_discovery),
    }
    Ok(())
}

fn record(e: &DiscoveryEntry) -> Value {
    let kind = match e.subtype {
        SubsystemType::Nvm => "nvme subsystem",
        SubsystemType::Referral => "referral",
        SubsystemType::Current => "current discovery subsystem",
    };
    json!({
        "subtype": kind,
        "subnqn": e.subnqn,
        "trtype": if e.trtype == vda_nvme::log::TRTYPE_TCP { "tcp" } else { "other" },
        "traddr": e.traddr,
        "trsvcid": e.trsvcid,
        "portid": e.portid,
    })
}

fn print_discovery(found: &Value) {
    let records = found["records"].as_array().map_or(&[][..], Vec::as_slice);
    println!("{}: {} records, generation {}", text(&found["path"]), records.len(), found["genctr"]);
    for r in records {
        let [kind, nqn, addr, port] = ["subtype", "subnqn", "traddr", "trsvcid"].map(|k| text(&r[k]));
        println!("  {nqn}  tcp://{addr}:{port}  {kind}");
    }
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or("-")
}

pub(crate) async fn identify(a: Identify) -> anyhow::Result<()> {
    let group = connect(&a.subsystem).await?;
    let shown = describe(&group);
    match a.output {
        Format::Json => println!("{shown}"),
        Format::Text => print_identity(&shown),
    }
    group.close().await;
    Ok(())
}

fn describe(group: &Group) -> Value {
    let namespaces = group.namespaces();
    let states = |p: &Path| -> Vec<Value> {
        let word = |state| match state {
            AnaState::Optimized => "optimized",
            AnaState::NonOptimized => "non_optimized",
            AnaState::Inaccessible => "inaccessible",
            AnaState::PersistentLoss => "persistent_loss",
            AnaState::Change => "change",
        };
        let seen = namespaces.iter().filter_map(|n| Some((n.nsid, p.ana_state(n.nsid)?)));
        seen.map(|(nsid, state)| json!({ "nsid": nsid, "ana_state": word(state) })).collect()
    };
    let controller = |p: &std::rc::Rc<Path>| {
        let mut v = json!({ "path": format!("tcp://{}", p.address), "connected": p.session().is_some() });
        if let Some(s) = p.session() {
            let id = &s.identify;
            v["cntlid"] = s.cntlid.into();
            v["model"] = id.model.clone().into();
            v["serial"] = id.serial.clone().into();
            v["firmware"] = id.firmware.clone().into();
            v["max_transfer"] = s.max_transfer.into();
            v["ana"] = states(p).into();
        }
        v
    };
    let namespace = |n: &std::rc::Rc<vda_dataplane::initiator::Namespace>| {
        json!({
            "nsid": n.nsid,
            "bytes": n.blocks() * u64::from(n.block_size()),
            "block_size": n.block_size(),
            "uuid": uuid::Uuid::from_bytes(n.ids.uuid).to_string(),
            "nguid": uuid::Uuid::from_bytes(n.ids.nguid).simple().to_string(),
        })
    };
    json!({
        "subnqn": group.subnqn,
        "controllers": group.paths().iter().map(controller).collect::<Vec<_>>(),
        "namespaces": namespaces.iter().map(namespace).collect::<Vec<_>>(),
    })
}

fn print_identity(v: &Value) {
    println!("{}", text(&v["subnqn"]));
    for c in v["controllers"].as_array().into_iter().flatten() {
        if c["connected"] == false {
            println!("  controller {}: not connected", text(&c["path"]));
            continue;
        }
        let states: Vec<String> = c["ana"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| format!("namespace {} {}", s["nsid"], text(&s["ana_state"])))
            .collect();
        let [path, model, serial] = ["path", "model", "serial"].map(|k| text(&c[k]));
        println!(
            "  controller {path}: id {}, model {model:?}, serial {serial:?}, {}",
            c["cntlid"],
            states.join(", ")
        );
    }
    for n in v["namespaces"].as_array().into_iter().flatten() {
        let [uuid, nguid] = ["uuid", "nguid"].map(|k| text(&n[k]));
        println!(
            "  namespace {}: {} bytes, blocks of {}, uuid {uuid}, nguid {nguid}",
            n["nsid"], n["bytes"], n["block_size"]
        );
    }
}
