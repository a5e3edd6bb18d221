use vda_model::ids::PdId;
use vda_model::keys::{CnGenKey, DnGenKey, PdSpecKey};

use super::*;

const DN: DnId = DnId::new(1);
const CN: CnId = CnId::new(2);
const DA: DaId = DaId::new(3);

fn sorted(keys: &[AnyKey]) -> BTreeMap<Node, Mail> {
    let (snapshot, ours) = (Snapshot::default(), [Node::Dn(DN), Node::Cn(CN)]);
    let mut sorter = Sorter::new(&snapshot, &ours);
    keys.iter().for_each(|key| sorter.sort(key));
    sorter.finish()
}

#[test]
fn a_generation_that_comes_alone_asks_for_a_sync() {
    let mail = sorted(&[DnGenKey(DN).any()]);
    assert!(mail[&Node::Dn(DN)].resync);
    let mail = sorted(&[DnGenKey(DN).any(), DnShareKey(DN, DA).any()]);
    assert!(!mail[&Node::Dn(DN)].resync && mail[&Node::Dn(DN)].das.contains(&DA));
    let mail = sorted(&[DnGenKey(DN).any(), PdSpecKey(DN, PdId::new(1)).any()]);
    assert!(!mail[&Node::Dn(DN)].resync && mail[&Node::Dn(DN)].node);
}

#[test]
fn each_node_gets_its_own() {
    let mail = sorted(&[CnGenKey(CN).any(), CntlrSpecKey(CN, DA).any(), DnShareKey(DnId::new(9), DA).any()]);
    assert_eq!(mail.keys().copied().collect::<Vec<_>>(), [Node::Cn(CN)], "DN 9 is not ours");
}

#[test]
fn the_state_of_a_cn_may_release_deletions_on_every_dn() {
    let mail = sorted(&[AnyKey::CnStatus(CnId::new(77))]);
    assert!(mail[&Node::Dn(DN)].held && !mail.contains_key(&Node::Cn(CN)));
}

#[test]
fn a_boot_concerns_the_node_itself() {
    let mail = sorted(&[AnyKey::DnBoot(DN)]);
    assert_eq!(mail.keys().copied().collect::<Vec<_>>(), [Node::Dn(DN)], "nobody has a share there");
    assert_eq!(mail[&Node::Dn(DN)], Mail::default(), "and its agent is told nothing");
}
