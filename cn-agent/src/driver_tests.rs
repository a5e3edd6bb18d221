use tokio::sync::watch;
use vda_model::ids::VdId;
use vda_model::names::SetPosition;
use vda_reconcile::parts::export::NamespaceSpec;
use vda_spdk::{Call, Error, Link, Rpc};

use super::*;

#[test]
fn a_vd_that_is_not_exported_yet_asks_for_no_listing_and_a_raid_that_cannot_be_made_does() {
    let da = DaId::new(1);
    let member = Id::Member(da, VdId::new(2));
    let mirror = Id::Mirror(da, SetPosition { leg: 0, group: 0, stripe: 0 });
    assert!(!obscure(&member, &Fault::refused("bdev_nvme_attach_controller", "Input/output error")));
    assert!(obscure(&member, &Fault::refused("bdev_nvme_detach_controller", "Device or resource busy")));
    assert!(obscure(&mirror, &Fault::refused("bdev_raid_create", "File exists")));
}

/// A data plane that notes, at each call, whether the agent would still know the volume after a crash.
#[derive(Clone)]
struct Witness {
    ledger: Arc<Ledger>,
    link: Arc<watch::Sender<Link>>,
    calls: Arc<Mutex<Vec<(&'static str, bool)>>>,
}

const DA: DaId = DaId::new(1);

impl Rpc for Witness {
    async fn call<C: Call>(&self, _: C) -> Result<C::Reply, Error> {
        let known =
            self.ledger.initialised(&leg_record(DA, 0)) && self.ledger.initialised(&volume_record(DA));
        lock(&self.calls).push((C::METHOD, known));
        Err(Error::rpc(C::METHOD, -32602, "Invalid parameters"))
    }
}

impl Target for Witness {
    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }
}

#[tokio::test]
async fn a_volume_is_in_the_ledger_before_a_host_can_reach_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(dir.path()).unwrap());
    let link = Arc::new(watch::Sender::new(Link::default()));
    let target = Witness { ledger: ledger.clone(), link, calls: Arc::default() };
    let transport = NvmfCreateTransport::new("TCP");
    let node = ControllerNode::new(
        target.clone(),
        transport,
        ListenAddress::tcp(([127, 0, 0, 1], 4430).into()),
        ledger,
    );

    let nqn = "nqn.2026-01.io.vda:exp".to_owned();
    let listener = ListenAddress::tcp(([127, 0, 0, 1], 4430).into());
    let listen = ExportAction::AddListener { nqn: nqn.clone(), address: listener };
    let bdev = Id::Volume(DA, 0).name();
    let namespace = NamespaceSpec { bdev, uuid: Default::default(), nguid: "0".repeat(32) };
    let add = ExportAction::AddNamespace { nqn: nqn.clone(), namespace };
    for action in [listen, add] {
        node.perform(&Id::Export(nqn.clone()), &Action::Export(action)).await.unwrap_err();
    }
    let calls = lock(&target.calls).clone();
    assert_eq!(calls, [("nvmf_subsystem_add_listener", false), ("nvmf_subsystem_add_ns", true)]);
}
