//! What a VD's namespace is called on the wire. Controllers compare it with nothing, but two VDs must never look alike, and it must differ
//! from the lvol's own UUID: otherwise a data plane could take the namespace for the lvol itself (SPDK, raid and multipath modules).

use uuid::Uuid;
use vda_model::ids::VdId;

/// `last` tells the uuid from the nguid.
fn bytes(vd: VdId, last: u8) -> [u8; 16] {
    let b = vd.bits().to_be_bytes();
    // Version 8 (RFC 9562, custom) and the variant in bytes 6 and 8.
    [b[0], b[1], b[2], b[3], b[4], b[5], 0x80, b'v', 0x80, b'd', b[6], b[7], b'v', b'd', b'a', last]
}

/// UUID of the namespace.
pub(crate) fn ns_uuid(vd: VdId) -> Uuid {
    Uuid::from_bytes(bytes(vd, 1))
}

/// NGUID of the namespace: 32 upper-case hex digits.
pub(crate) fn ns_nguid(vd: VdId) -> String {
    bytes(vd, 2).iter().map(|b| format!("{b:02X}")).collect()
}

/// Serial number of the subsystem, at most 20 characters.
pub(crate) fn serial(vd: VdId) -> String {
    format!("VDA{vd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_and_nguid_differ_and_tell_vds_apart() {
        let (a, b) = (VdId::new(0x0123_4567_89ab_cdef), VdId::new(0x0123_4567_89ab_cdee));
        assert_ne!(ns_uuid(a), ns_uuid(b));
        assert_ne!(ns_nguid(a), ns_nguid(b));
        assert_ne!(ns_uuid(a).simple().to_string().to_uppercase(), ns_nguid(a));
        assert_eq!(ns_uuid(a).get_version_num(), 8);
        assert_eq!(ns_nguid(a).len(), 32);
        assert!(serial(a).len() <= 20);
    }
}
