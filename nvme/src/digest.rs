//! Header and data digests: CRC32C (TCP 3.3.1.1).

/// Length of a digest on the wire, bytes.
pub const DIGEST_LEN: usize = 4;

/// Which digests a connection negotiated in ICReq/ICResp (TCP 3.6.2.2, 3.6.2.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digests {
    /// CRC32C over every PDU header after initialisation.
    pub header: bool,
    /// CRC32C over the data of every PDU that carries data.
    pub data: bool,
}

impl Digests {
    /// Decodes the DGST byte of ICReq/ICResp; reserved bits are ignored.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self { header: bits & 1 != 0, data: bits & 2 != 0 }
    }

    /// Encodes the DGST byte.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.header) | u8::from(self.data) << 1
    }

    /// What both sides want: a digest is on when the host asks and the controller agrees.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { header: self.header && other.header, data: self.data && other.data }
    }
}

/// CRC32C of `data` as it travels: least significant byte first.
#[must_use]
pub fn digest(data: &[u8]) -> [u8; DIGEST_LEN] {
    crc32c::crc32c(data).to_le_bytes()
}
