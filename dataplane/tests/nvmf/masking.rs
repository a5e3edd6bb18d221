//! Namespaces that not all hosts see. What SPDK does as well is the scenario `masking` of `tests/conformance.rs`.

use vda_dataplane::nvmf::NamespaceRequest;
use vda_nvme::cmd::{Sqe, admin, feature};
use vda_nvme::identify::cns;
use vda_nvme::log::lid;
use vda_nvme::status::Status;

use crate::fixture::{Fixture, HOST, NQN, run};
use crate::raw::{RawHost, RawQueue, Who};

async fn enable_events(q: &mut RawQueue) {
    let mut sqe = Sqe::new(admin::SET_FEATURES, 0);
    sqe.cdw10[..2].copy_from_slice(&[feature::ASYNC_EVENT_CONFIG.into(), 1 << 8]);
    assert_eq!(q.status(sqe, vec![], 0).await, Status::SUCCESS);
}

/// Namespaces that changed since this was asked last.
async fn changed(q: &mut RawQueue) -> Vec<u32> {
    let mut sqe = Sqe::new(admin::GET_LOG_PAGE, 0);
    sqe.cdw10[0] = u32::from(lid::CHANGED_NAMESPACES) | 1023 << 16;
    nsids(&q.command(sqe, vec![], 4096).await.buffer)
}

async fn seen(q: &mut RawQueue) -> Vec<u32> {
    let mut sqe = Sqe::new(admin::IDENTIFY, 0);
    sqe.cdw10[0] = cns::ACTIVE_NAMESPACES.into();
    nsids(&q.command(sqe, vec![], 4096).await.buffer)
}

fn nsids(b: &[u8]) -> Vec<u32> {
    let nsids = b.chunks(4).map(|n| u32::from_le_bytes(n.try_into().expect("4 bytes")));
    nsids.take_while(|nsid| *nsid != 0).collect()
}

/// What comes, goes and is shown or hidden is told to the hosts that see it, and to no other: SPDK tells all.
#[test]
fn hosts_that_do_not_see_a_namespace_hear_nothing_of_it() {
    run(async {
        let f = Fixture::new();
        f.target.remove_ns(NQN, 1).await.expect("removed");
        let request =
            NamespaceRequest { bdev_name: "m0".into(), no_auto_visible: true, ..Default::default() };
        let other = "nqn.2016-06.io.spdk:other";
        let mut a = RawHost::connect(&f.who()).await;
        let mut b = RawHost::connect(&Who { hostid: [8; 16], hostnqn: other.into(), ..f.who() }).await;
        for admin in [&mut a.admin, &mut b.admin] {
            enable_events(admin).await;
        }
        let told_a = a.admin.submit(Sqe::new(admin::ASYNC_EVENT_REQUEST, 0), vec![], 0).await;
        let told_b = b.admin.submit(Sqe::new(admin::ASYNC_EVENT_REQUEST, 0), vec![], 0).await;
        assert_eq!(f.target.add_ns(NQN, &request).expect("added"), 1);
        assert!(seen(&mut a.admin).await.is_empty());
        f.target.set_ns_visible(NQN, 1, HOST, true).await.expect("shown");
        assert_eq!(a.admin.wait(told_a).await.cqe.result, 2 | u64::from(lid::CHANGED_NAMESPACES) << 16);
        assert_eq!((changed(&mut a.admin).await, seen(&mut a.admin).await), (vec![1], vec![1]));
        f.target.set_ns_visible(NQN, 1, HOST, false).await.expect("hidden");
        assert_eq!((changed(&mut a.admin).await, seen(&mut a.admin).await), (vec![1], vec![]));
        f.target.remove_ns(NQN, 1).await.expect("removed");
        assert_eq!((changed(&mut a.admin).await, changed(&mut b.admin).await), (vec![], vec![]));

        // The first that the other host is told is of a namespace that all see.
        let request = NamespaceRequest { nsid: Some(7), no_auto_visible: false, ..request };
        f.target.add_ns(NQN, &request).expect("added");
        b.admin.wait(told_b).await;
        assert_eq!(changed(&mut b.admin).await, [7]);
    });
}
