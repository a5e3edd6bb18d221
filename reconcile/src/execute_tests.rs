use std::sync::Mutex;

use super::*;
use crate::graph::{Actual, Removal, Verdict};
use crate::plan::Why;

#[derive(Debug, Clone, PartialEq)]
struct Letters;

impl Domain for Letters {
    type Id = char;
    type Spec = ();
    type State = ();
    type Action = u32;

    fn judge(_: &char, (): &(), _: &Actual<Self>) -> Verdict<Self> {
        Verdict::Fine
    }
    fn remove(_: &char, (): &(), _: bool, _: &Actual<Self>) -> Removal<Self> {
        Removal::WithBase
    }
}

/// Fails action 13; action 7 waits for action 8.
#[derive(Default)]
struct Hands {
    done: Mutex<Vec<u32>>,
    eight: tokio::sync::Notify,
}

impl Perform<Letters> for Hands {
    async fn perform(&self, _id: &char, action: &u32) -> Result<(), Fault> {
        match action {
            13 => return Err(Fault::refused("thirteen", "no")),
            7 => self.eight.notified().await,
            8 => self.eight.notify_one(),
            _ => {}
        }
        self.done.lock().unwrap().push(*action);
        Ok(())
    }
}

fn wave(steps: &[(char, &[u32])]) -> Plan<Letters> {
    let step = |(id, actions): &(char, &[u32])| Step {
        id: *id,
        why: Why::Create,
        actions: actions.to_vec(),
        destructive: false,
    };
    Plan {
        steps: steps.iter().map(step).collect(),
        blocked: BTreeMap::new(),
        refused: BTreeMap::new(),
        leaving: std::collections::BTreeSet::new(),
        unchanged: 0,
    }
}

#[tokio::test]
async fn a_chain_stops_at_its_first_error_and_others_go_on() {
    let hands = Hands::default();
    let outcome = execute(&wave(&[('a', &[1, 13, 2]), ('b', &[3, 4])]), &hands).await;
    assert_eq!(outcome[&'a'].as_ref().unwrap_err().op, "thirteen");
    assert!(outcome[&'b'].is_ok());
    let done = hands.done.lock().unwrap().clone();
    assert!(done.contains(&4) && !done.contains(&2), "{done:?}");
}

#[tokio::test]
async fn steps_run_at_the_same_time() {
    let hands = Hands::default();
    let outcome = execute(&wave(&[('a', &[7]), ('b', &[8])]), &hands).await;
    assert!(outcome.values().all(Result::is_ok), "the first step waits for the second");
}
