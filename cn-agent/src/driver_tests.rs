use vda_model::ids::VdId;
use vda_model::names::SetPosition;

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
