use bytes::{Buf, Bytes};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cmd::{Cqe, Sqe};
use crate::pdu::{C2hData, CapsuleCmd, H2cData, IcReq, IcResp, Kind, R2t, TermReq};

fn limits(alignment: u8) -> Limits {
    Limits { alignment, in_capsule_data: 8192, max_h2c_data: 8192, max_c2h_data: 8192, ..Limits::default() }
}

fn payload(min: usize) -> impl Strategy<Value = Bytes> {
    prop_oneof![vec(any::<u8>(), min..64), vec(any::<u8>(), 500..530), vec(any::<u8>(), 4000..8192)]
        .prop_map(Bytes::from)
}

fn digests() -> impl Strategy<Value = Digests> {
    (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
}

fn to_controller() -> impl Strategy<Value = Pdu> {
    prop_oneof![
        (any::<[u8; 64]>(), payload(0)).prop_map(|(sqe, data)| Pdu::CapsuleCmd(CapsuleCmd {
            sqe: Sqe::decode(&sqe),
            data,
            digest_ok: true
        })),
        (any::<u16>(), any::<u16>(), any::<u32>(), payload(0), any::<bool>()).prop_map(
            |(cccid, ttag, offset, data, last)| Pdu::H2cData(H2cData {
                cccid,
                ttag,
                offset,
                data,
                last,
                digest_ok: true
            })
        ),
        (any::<u16>(), any::<u32>(), vec(any::<u8>(), 0..=128))
            .prop_map(|(fes, fei, header)| { Pdu::H2cTermReq(TermReq { fes, fei, header: header.into() }) }),
    ]
}

fn to_host() -> impl Strategy<Value = Pdu> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(|b| Pdu::CapsuleResp(Cqe::decode(&b))),
        (any::<u16>(), any::<u32>(), payload(0), any::<bool>(), any::<bool>()).prop_map(
            |(cccid, offset, data, last, success)| Pdu::C2hData(C2hData {
                cccid,
                offset,
                data,
                last,
                success,
                digest_ok: true
            })
        ),
        any::<(u16, u16, u32, u32)>().prop_map(|(cccid, ttag, offset, length)| Pdu::R2t(R2t {
            cccid,
            ttag,
            offset,
            length
        })),
    ]
}

fn stream(pdus: &[Pdu], digests: Digests, alignment: u8) -> Bytes {
    let mut out = Outbox::new();
    out.establish(digests, alignment);
    for p in pdus {
        out.push(p.clone());
    }
    let n = out.remaining();
    out.copy_to_bytes(n)
}

/// Feeds `bytes` in pieces of the given sizes (the last repeats) and collects what comes out.
fn decode(
    role: Role,
    digests: Digests,
    alignment: u8,
    bytes: &[u8],
    pieces: &[usize],
) -> Result<Vec<Pdu>, Termination> {
    let mut d = Decoder::new(role, limits(alignment));
    d.establish(digests);
    let (mut rest, mut out, mut i) = (bytes, Vec::new(), 0);
    while !rest.is_empty() {
        let n = pieces.get(i.min(pieces.len() - 1)).copied().unwrap_or(1).clamp(1, rest.len());
        i += 1;
        d.buffer().extend_from_slice(&rest[..n]);
        rest = &rest[n..];
        while let Some(p) = d.decode()? {
            out.push(p);
        }
    }
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn decode_is_the_inverse_of_encode_whatever_the_chunks(
        c in vec(to_controller(), 1..6), h in vec(to_host(), 1..6), digests in digests(),
        alignment in 0u8..32, pieces in vec(1usize..3000, 1..40),
    ) {
        for (role, pdus) in [(Role::Controller, &c), (Role::Host, &h)] {
            let bytes = stream(pdus, digests, alignment);
            let whole = decode(role, digests, alignment, &bytes, &[usize::MAX]);
            prop_assert_eq!(whole.as_ref(), Ok(pdus));
            prop_assert_eq!(decode(role, digests, alignment, &bytes, &pieces), whole);
        }
    }

    #[test]
    fn one_byte_at_a_time_gives_the_same(c in vec(to_controller(), 1..3), digests in digests()) {
        let bytes = stream(&c, digests, 0);
        prop_assert_eq!(decode(Role::Controller, digests, 0, &bytes, &[1]), Ok(c));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_reserve_beyond_the_limits(
        bytes in vec(any::<u8>(), 0..600), first in prop_oneof![Just(4u8), Just(6), Just(7), Just(5), Just(9), any::<u8>()],
        hlen in prop_oneof![Just(72u8), Just(24), any::<u8>()], established in any::<bool>(), digests in digests(),
    ) {
        for role in [Role::Host, Role::Controller] {
            let mut d = Decoder::new(role, limits(0));
            if established {
                d.establish(digests);
            }
            let mut b = bytes.clone();
            if b.len() > 2 {
                b[0] = first;
                b[2] = hlen;
            }
            d.buffer().extend_from_slice(&b);
            while let Ok(Some(_)) = d.decode() {}
            prop_assert!(d.missing() <= 8192 + 256 + 8);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_with_both_digests(
        p in to_controller().prop_filter("PDUs with digests", |p| p.kind().has_digests()),
        bit in any::<prop::sample::Index>(),
    ) {
        let digests = Digests { header: true, data: true };
        let mut bytes = stream(std::slice::from_ref(&p), digests, 0).to_vec();
        let i = bit.index(bytes.len() * 8);
        bytes[i / 8] ^= 1 << (i % 8);
        match decode(Role::Controller, digests, 0, &bytes, &[usize::MAX]) {
            Err(_) => {}
            // An untouched header with damaged data is delivered and marked.
            Ok(pdus) => match pdus.first() {
                Some(Pdu::CapsuleCmd(c)) => prop_assert!(!c.digest_ok),
                Some(Pdu::H2cData(d)) => prop_assert!(!d.digest_ok),
                // One bit of its type makes a short H2CData an H2CTermReq, which has no digest (TCP Transport 3.6.2.3): the connection ends.
                Some(Pdu::H2cTermReq(_)) => prop_assert_eq!((i / 8, p.kind()), (0, Kind::H2cData)),
                // Damage in the length keeps the decoder waiting for bytes only if the header digest missed it.
                other => prop_assert!(false, "{other:?}"),
            },
        }
    }

    #[test]
    fn ic_pdus_round_trip(pfv in any::<u16>(), pda in any::<u8>(), digests in digests(), n in any::<u32>()) {
        for (role, pdu) in [
            (Role::Controller, Pdu::IcReq(IcReq { pfv, hpda: pda, digests, maxr2t: n })),
            (Role::Host, Pdu::IcResp(IcResp { pfv, cpda: pda, digests, maxh2cdata: n })),
        ] {
            let mut d = Decoder::new(role, Limits::default());
            d.buffer().extend_from_slice(&stream(std::slice::from_ref(&pdu), Digests::default(), 0));
            prop_assert_eq!(d.decode(), Ok(Some(pdu)));
        }
    }

    #[test]
    fn entries_keep_every_bit(sqe in any::<[u8; 64]>(), cqe in any::<[u8; 16]>()) {
        prop_assert_eq!(Sqe::decode(&sqe).encode(), sqe);
        prop_assert_eq!(Cqe::decode(&cqe).encode(), cqe);
    }
}

/// Header of an otherwise good H2CData of 16 bytes, with `edit` applied.
fn edited(edit: impl Fn(&mut Vec<u8>)) -> Result<Option<Pdu>, Termination> {
    let data = Bytes::from_static(&[7; 16]);
    let pdu = Pdu::H2cData(H2cData { cccid: 1, ttag: 2, offset: 0, data, last: true, digest_ok: true });
    let mut b = stream(&[pdu], Digests::default(), 0).to_vec();
    edit(&mut b);
    let mut d = Decoder::new(Role::Controller, limits(0));
    d.establish(Digests::default());
    d.buffer().extend_from_slice(&b);
    d.decode()
}

#[test]
fn bad_header_fields_end_the_connection_with_the_field_named() {
    let len = |n: u32| move |b: &mut Vec<u8>| b[4..8].copy_from_slice(&n.to_le_bytes());
    type Edit = Box<dyn Fn(&mut Vec<u8>)>;
    let cases: Vec<(Edit, Fes, u32)> = vec![
        (Box::new(|b| b[0] = 8), Fes::InvalidHeader, 0),
        (Box::new(|b| b[0] = 0), Fes::Sequence, 0),
        (Box::new(|b| b[0] = 7), Fes::Sequence, 0),
        (Box::new(|b| b[1] |= flag::HDGST), Fes::InvalidHeader, 1),
        (Box::new(|b| b[1] |= flag::DDGST), Fes::InvalidHeader, 1),
        (Box::new(|b| b[2] = 25), Fes::InvalidHeader, 2),
        (Box::new(|b| b[3] = 20), Fes::InvalidHeader, 3),
        (Box::new(|b| b[3] = 26), Fes::InvalidHeader, 3),
        (Box::new(len(0)), Fes::InvalidHeader, 4),
        (Box::new(len(7)), Fes::InvalidHeader, 4),
        (Box::new(len(23)), Fes::InvalidHeader, 4),
        (Box::new(len(39)), Fes::InvalidHeader, 4),
        (Box::new(len(u32::MAX)), Fes::InvalidHeader, 4),
    ];
    for (i, (edit, fes, fei)) in cases.into_iter().enumerate() {
        let t = edited(edit).expect_err("case must be refused");
        assert_eq!((t.fes, t.fei), (fes, fei), "case {i}");
        assert!(!t.header.is_empty(), "case {i}");
    }
    let too_much = edited(|b| {
        b[4..8].copy_from_slice(&(24 + 8196_u32).to_le_bytes());
        b[16..20].copy_from_slice(&8196_u32.to_le_bytes());
    });
    assert_eq!(too_much.expect_err("more than MAXH2CDATA").fes, Fes::LimitExceeded);
}

#[test]
fn a_wrong_header_digest_is_reported_as_such() {
    let digests = Digests { header: true, data: false };
    let mut b = stream(&[Pdu::CapsuleResp(Cqe::default())], digests, 0).to_vec();
    b[9] ^= 1;
    let e = decode(Role::Host, digests, 0, &b, &[usize::MAX]).expect_err("damaged");
    assert_eq!(e.fes, Fes::HeaderDigest);
}

#[test]
fn digest_is_crc32c() {
    assert_eq!(u32::from_le_bytes(digest(b"123456789")), 0xe306_9283);
}
