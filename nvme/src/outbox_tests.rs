use super::*;
use crate::cmd::Cqe;
use crate::pdu::C2hData;

fn data(cccid: u16, payload: Bytes) -> Pdu {
    Pdu::C2hData(C2hData { cccid, offset: 0, data: payload, last: true, success: true, digest_ok: true })
}

fn filled(n: usize, value: u8) -> Bytes {
    Bytes::from(vec![value; n])
}

/// PDUs of all shapes: without payload, with a copied one, with one that is not copied, in every order.
fn pdus() -> Vec<Pdu> {
    let response = || Pdu::CapsuleResp(Cqe { result: 7, ..Cqe::default() });
    let sizes = [1, 512, 513, 4096, 4, 8192];
    let data = sizes.iter().zip(0..).map(|(n, i)| data(i, filled(*n, i as u8 + 1)));
    data.flat_map(|d| [response(), d.clone(), d, response(), response()]).collect()
}

/// All bytes, taken `step` at a time.
fn drained(outbox: &mut Outbox, step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while outbox.has_remaining() {
        let mut slices = [IoSlice::new(&[]); 64];
        let n = outbox.chunks_vectored(&mut slices);
        assert_eq!((slices[0].as_ptr(), slices[0].len()), (outbox.chunk().as_ptr(), outbox.chunk().len()));
        let before = out.len();
        for slice in &slices[..n] {
            let left = step - (out.len() - before);
            out.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        outbox.advance(out.len() - before);
    }
    out
}

#[test]
fn the_bytes_are_the_same_however_they_are_taken() {
    for digests in [Digests::default(), Digests { header: true, data: true }] {
        let mut whole: Option<Vec<u8>> = None;
        for step in [usize::MAX, 1, 7, 24, 512, 4096 + 24, 10_000] {
            let mut outbox = Outbox::new();
            outbox.establish(digests, 0);
            // Pushed between sends, and more than once around the point at which sent headers are dropped.
            let mut all = Vec::new();
            for _ in 0..8 {
                pdus().iter().for_each(|pdu| outbox.push(pdu.clone()));
                all.extend(drained(&mut outbox, step));
                assert!(outbox.is_empty());
            }
            assert_eq!(whole.get_or_insert_with(|| all.clone()), &all, "{step} at a time");
        }
    }
}

#[test]
fn headers_are_not_kept_while_something_is_always_queued() {
    let mut outbox = Outbox::new();
    outbox.push(data(0, filled(4096, 1)));
    for _ in 0..10_000 {
        outbox.push(data(0, filled(4096, 1)));
        outbox.advance(4096 + 24);
    }
    assert_eq!(outbox.remaining(), 4096 + 24);
    assert!(outbox.heads.capacity() <= 4 * COMPACT, "{} bytes", outbox.heads.capacity());
}

#[test]
fn a_sent_payload_is_given_back_whole_and_not_before() {
    let mut outbox = Outbox::new();
    outbox.keep_spent();
    outbox.push(data(0, filled(4096, 9)));
    outbox.advance(24 + 4095);
    assert_eq!(outbox.take_spent(), None);
    outbox.advance(1);
    let spent = outbox.take_spent().expect("sent");
    assert_eq!(spent, filled(4096, 9));
    assert!(spent.try_into_mut().is_ok(), "nobody else holds it");
    assert_eq!(outbox.take_spent(), None);
}

#[test]
fn large_payloads_are_not_copied() {
    let payload = filled(4096, 1);
    let at = payload.as_ptr();
    let mut outbox = Outbox::new();
    outbox.push(data(0, payload));
    let mut slices = [IoSlice::new(&[]); 8];
    assert_eq!(outbox.chunks_vectored(&mut slices), 2);
    assert_eq!((slices[1].as_ptr(), slices[1].len()), (at, 4096));
}
