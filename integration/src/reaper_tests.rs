use std::os::unix::process::ExitStatusExt as _;

use super::*;

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").process_group(0).spawn().unwrap()
}

#[test]
fn what_was_added_and_not_forgotten_dies_with_the_reaper() {
    let reaper = Reaper::start().unwrap();
    let (mut doomed, mut ended, mut also_doomed) = (sleeper(), sleeper(), sleeper());
    for child in [&doomed, &ended, &also_doomed] {
        reaper.add(child.id()).unwrap();
    }
    reaper.forget(ended.id()).unwrap();
    drop(reaper);
    assert_eq!(doomed.wait().unwrap().signal(), Some(9));
    assert_eq!(also_doomed.wait().unwrap().signal(), Some(9));
    assert_eq!(ended.try_wait().unwrap(), None, "its number may belong to somebody else by now");
    ended.kill().unwrap();
    ended.wait().unwrap();
}
