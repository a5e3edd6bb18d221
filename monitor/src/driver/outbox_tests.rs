use vda_model::ids::DnId;
use vda_proto::v1::{DnStatus, PdStatus, ShareStatus};

use super::*;

const NODE: Node = Node::Dn(DnId::new(1));

fn dn(free_bytes: u64, total_bytes: u64, observed_generation: u64) -> NodeStatus {
    let pds = vec![PdStatus { free_bytes, total_bytes, ..PdStatus::default() }];
    NodeStatus::Dn(DnStatus { pds, observed_generation, ..DnStatus::default() })
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_written_once_a_second_at_most() {
    let (snapshot, now, mut outbox) = (Snapshot::default(), Instant::now(), Outbox::default());
    outbox.node(dn(9, 9, 1), now);
    outbox.generation(1, now);
    assert!(outbox.take(&snapshot, NODE, now).unwrap().node.is_some(), "the first contact is told at once");
    outbox.node(dn(8, 9, 2), now);
    outbox.generation(2, now);
    assert_eq!(outbox.take(&snapshot, NODE, now), None);
    assert_eq!(outbox.due_at(), Some(now + LAZY));
    let later = outbox.take(&snapshot, NODE, now + LAZY).unwrap().node.unwrap();
    assert_eq!((later.generation, later.reported), (2, Some(dn(8, 9, 2))));
    outbox.node(dn(8, 16, 2), now);
    assert!(outbox.take(&snapshot, NODE, now).is_some(), "a new size is told at once");
    assert_eq!(outbox.due_at(), None);
}

#[tokio::test(start_paused = true)]
async fn a_failed_record_does_not_overwrite_newer_news() {
    let (snapshot, now, mut outbox) = (Snapshot::default(), Instant::now(), Outbox::default());
    let share = |observed_revision| {
        ComponentStatus::Share(ShareStatus { observed_revision, ..ShareStatus::default() })
    };
    let (one, two) = (DaId::new(1), DaId::new(2));
    outbox.components.insert(one, share(1));
    outbox.components.insert(two, share(1));
    let entry = outbox.take(&snapshot, NODE, now).unwrap();
    outbox.components.insert(one, share(2));
    outbox.put_back(&entry, now);
    assert_eq!(outbox.components, [(one, share(2)), (two, share(1))].into());
}
