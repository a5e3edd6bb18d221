//! The PDU decoder: any bytes, at both ends, in any phase, with any digests and alignment.
//!
//! It must not panic, the stream may be cut anywhere without changing what comes out, no more is buffered than was sent, and what
//! is decoded is decoded to the same again when it is sent on.

use bytes::{Buf, Bytes};
use vda_nvme::cmd::{Cqe, Sqe, io};
use vda_nvme::codec::{Decoder, Limits, Outbox, Role};
use vda_nvme::digest::Digests;
use vda_nvme::pdu::{C2hData, CapsuleCmd, H2cData, IcReq, IcResp, Pdu, R2t, TermReq, Termination};

use crate::{Input, pieces};

/// Alignments that are tried, dwords, zero based.
const ALIGNMENTS: [u8; 4] = [0, 1, 7, 31];

#[derive(Clone, Copy)]
struct Setting {
    role: Role,
    digests: Option<Digests>,
    alignment: u8,
}

impl Setting {
    fn from_byte(b: u8) -> Self {
        Self {
            role: if b & 1 == 0 { Role::Controller } else { Role::Host },
            digests: (b & 2 == 0).then(|| Digests::from_bits(b >> 2)),
            alignment: ALIGNMENTS[usize::from(b >> 4 & 3)],
        }
    }

    fn byte(self) -> u8 {
        let alignment = ALIGNMENTS.iter().position(|a| *a == self.alignment).unwrap_or(0) as u8;
        u8::from(self.role == Role::Host)
            | u8::from(self.digests.is_none()) << 1
            | self.digests.unwrap_or_default().bits() << 2
            | alignment << 4
    }

    fn decoder(self) -> Decoder {
        let limits = Limits { alignment: self.alignment, max_h2c_data: 8192, ..Limits::default() };
        let mut decoder = Decoder::new(self.role, limits);
        if let Some(digests) = self.digests {
            decoder.establish(digests);
        }
        decoder
    }

    fn outbox(self) -> Outbox {
        let mut outbox = Outbox::new();
        if let Some(digests) = self.digests {
            outbox.establish(digests, self.alignment);
        }
        outbox
    }
}

type Decoded = (Vec<Pdu>, Option<Termination>);

fn decode<'a>(setting: Setting, stream: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let (mut decoder, mut pdus, mut sent) = (setting.decoder(), Vec::new(), 0);
    for piece in stream {
        sent += piece.len();
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.decode() {
                Ok(None) => break,
                Ok(Some(pdu)) => pdus.push(pdu),
                Err(why) => return (pdus, Some(why)),
            }
        }
        assert!(decoder.buffer().len() <= sent, "more is buffered than came");
        let most = setting_limit() + 4096;
        assert!(decoder.missing() <= most, "a PDU of {} bytes is waited for", decoder.missing());
    }
    (pdus, None)
}

/// The longest data that the limits of [`Setting::decoder`] and of its peer allow.
fn setting_limit() -> usize {
    Limits::default().max_c2h_data as usize
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    let setting = Setting::from_byte(input.byte());
    let seed = u64::from(input.byte());
    let stream = input.0;
    let whole = decode(setting, std::iter::once(stream));
    let cut = decode(setting, pieces(stream, seed));
    assert_eq!(whole.0, cut.0, "the cut changes what is decoded");
    assert_eq!(
        whole.1.map(|t| (t.fes, t.fei)),
        cut.1.map(|t| (t.fes, t.fei)),
        "the cut changes why the connection ends"
    );
    sent_again(setting, whole.0);
}

fn sent_again(setting: Setting, pdus: Vec<Pdu>) {
    // A digest that was wrong is computed anew; reserved bits are not kept.
    let pdus: Vec<Pdu> = pdus.into_iter().map(with_good_digest).collect();
    let mut outbox = setting.outbox();
    pdus.iter().for_each(|pdu| outbox.push(pdu.clone()));
    let bytes = outbox.copy_to_bytes(outbox.remaining());
    assert_eq!(decode(setting, std::iter::once(&bytes[..])), (pdus, None), "sent again, it is another");
}

fn with_good_digest(pdu: Pdu) -> Pdu {
    match pdu {
        Pdu::CapsuleCmd(p) => Pdu::CapsuleCmd(CapsuleCmd { digest_ok: true, ..p }),
        Pdu::H2cData(p) => Pdu::H2cData(H2cData { digest_ok: true, ..p }),
        Pdu::C2hData(p) => Pdu::C2hData(C2hData { digest_ok: true, ..p }),
        other => other,
    }
}

/// One stream per role, phase and kind of digests.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let data = Bytes::from(vec![0x5a; 600]);
    let sqe = Sqe::new(io::WRITE, 1);
    let term = TermReq { fes: 1, fei: 4, header: Bytes::from(vec![4; 72]) };
    let to_controller = [
        Pdu::CapsuleCmd(CapsuleCmd { sqe, data: Bytes::new(), digest_ok: true }),
        Pdu::CapsuleCmd(CapsuleCmd { sqe, data: data.clone(), digest_ok: true }),
        Pdu::H2cData(H2cData {
            cccid: 1,
            ttag: 2,
            offset: 512,
            data: data.clone(),
            last: true,
            digest_ok: true,
        }),
        Pdu::H2cTermReq(term.clone()),
    ];
    let to_host = [
        Pdu::C2hData(C2hData { cccid: 1, offset: 0, data, last: true, success: true, digest_ok: true }),
        Pdu::R2t(R2t { cccid: 1, ttag: 2, offset: 0, length: 4096 }),
        Pdu::CapsuleResp(Cqe { cid: 3, ..Cqe::default() }),
        Pdu::C2hTermReq(term),
    ];
    let digests = Digests::default();
    let request = [Pdu::IcReq(IcReq { pfv: 0, hpda: 0, digests, maxr2t: 0 })];
    let response = [Pdu::IcResp(IcResp { pfv: 0, cpda: 0, digests, maxh2cdata: 4096 })];
    let seed = |setting: Setting, pdus: &[Pdu]| {
        let mut outbox = setting.outbox();
        pdus.iter().for_each(|p| outbox.push(p.clone()));
        let mut out = vec![setting.byte(), 3];
        out.extend_from_slice(&outbox.copy_to_bytes(outbox.remaining()));
        out
    };
    let mut all = vec![
        seed(Setting { role: Role::Controller, digests: None, alignment: 0 }, &request),
        seed(Setting { role: Role::Host, digests: None, alignment: 0 }, &response),
    ];
    for (bits, alignment) in [(0, 0), (1, 1), (2, 7), (3, 31)] {
        let digests = Some(Digests::from_bits(bits));
        all.push(seed(Setting { role: Role::Controller, digests, alignment }, &to_controller));
        all.push(seed(Setting { role: Role::Host, digests, alignment }, &to_host));
    }
    all
}
