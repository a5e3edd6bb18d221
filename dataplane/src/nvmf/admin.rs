//! Commands that are answered at once: Fabrics and admin commands (NVM Express Base 2.0, 5 and 6).

use std::rc::Rc;

use bytes::Bytes;
use vda_nvme::cmd::{Sqe, admin, feature};
use vda_nvme::controller::Request;
use vda_nvme::controller::state::{Effect, KeepAlive};
use vda_nvme::fabrics::fctype;
use vda_nvme::identify::IDENTIFY_LEN;
use vda_nvme::status::Status;

use super::controller::Controller;
use super::{Target, connect, identify, logpage, reservation};

/// Answer of a command.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) result: u64,
    pub(super) data: Option<Bytes>,
}

impl Answer {
    fn result(result: impl Into<u64>) -> Self {
        Self { result: result.into(), data: None }
    }

    fn data(mut data: Vec<u8>, length: u32) -> Self {
        // The host gets as much as it has room for, and never less: what is missing is zero.
        data.resize(length as usize, 0);
        Self { result: 0, data: Some(data.into()) }
    }
}

/// Executes an admin or Fabrics command other than Connect and Abort. `Ok(None)` is an Asynchronous Event Request that waits.
pub(super) fn execute(target: &Target, c: &Rc<Controller>, r: &Request) -> Result<Option<Answer>, Status> {
    c.touch();
    let sqe = &r.sqe;
    if sqe.is_fabrics() {
        return fabrics(c, sqe).map(Some);
    }
    let options = target.transport().ok_or(Status::INTERNAL_ERROR)?;
    match sqe.opcode {
        admin::IDENTIFY if (r.buffer_len as usize) < IDENTIFY_LEN => {
            Err(Status::DATA_SGL_LENGTH_INVALID.dnr())
        }
        admin::IDENTIFY => {
            let data = identify::identify(c, &options, sqe)?;
            Ok(Some(Answer::data(data, r.buffer_len)))
        }
        admin::GET_LOG_PAGE => {
            let data = logpage::get(target, c, sqe, r.buffer_len as usize)?;
            Ok(Some(Answer::data(data, r.buffer_len)))
        }
        admin::KEEP_ALIVE if c.state.borrow().kato_ms == 0 => Err(Status::KEEP_ALIVE_INVALID.dnr()),
        admin::KEEP_ALIVE => Ok(Some(Answer::default())),
        admin::SET_FEATURES => set_features(target, c, r).map(Some),
        admin::GET_FEATURES => get_features(target, c, r).map(Some),
        admin::ASYNC_EVENT_REQUEST => {
            let completion = c.state.borrow_mut().events.request(r.tag)?;
            c.answer_event(completion);
            Ok(None)
        }
        _ => Err(Status::INVALID_OPCODE.dnr()),
    }
}

fn fabrics(c: &Rc<Controller>, sqe: &Sqe) -> Result<Answer, Status> {
    // ATTRIB: the size of the property, 4 or 8 bytes.
    let wide = match sqe.cdw10[0] & 7 {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Status::INVALID_FIELD.dnr()),
    };
    let offset = sqe.cdw10[1];
    match sqe.fctype() {
        fctype::PROPERTY_GET => {
            let value = c.state.borrow().properties.get(offset, wide?)?;
            Ok(Answer::result(value))
        }
        fctype::PROPERTY_SET => {
            let effect = c.state.borrow_mut().properties.set(offset, wide?, sqe.qword(2))?;
            if effect == Effect::Reset {
                c.disconnect(false);
            }
            Ok(Answer::default())
        }
        fctype::CONNECT => Err(Status::SEQUENCE_ERROR.dnr()),
        _ => Err(Status::INVALID_OPCODE.dnr()),
    }
}

fn queue_counts(target: &Target) -> u32 {
    let max = u32::from(target.transport().map_or(1, |o| o.max_io_qpairs)) - 1;
    max | max << 16
}

/// Length of the data of a feature that has some, bytes.
fn feature_length(r: &Request) -> u32 {
    if r.sqe.cdw10[0].to_le_bytes()[0] == feature::HOST_IDENTIFIER { 16 } else { 512 }
}

fn get_features(target: &Target, c: &Controller, r: &Request) -> Result<Answer, Status> {
    // SEL: only the current value, nothing can be saved (ONCS bit 4).
    if r.sqe.cdw10[0] >> 8 & 7 != 0 {
        return Err(Status::INVALID_FIELD.dnr());
    }
    let state = c.state.borrow();
    let value = match r.sqe.cdw10[0].to_le_bytes()[0] {
        feature::ASYNC_EVENT_CONFIG => state.events.config(),
        feature::KEEP_ALIVE_TIMER => state.kato_ms,
        _ if c.subsystem.config.discovery => return Err(Status::INVALID_FIELD.dnr()),
        feature::NUMBER_OF_QUEUES => queue_counts(target),
        // Bit 0 of dword 11: the 128-bit identifier, the only one in Fabrics.
        feature::HOST_IDENTIFIER if r.sqe.cdw10[1] & 1 == 0 => {
            return Err(Status::HOST_ID_INCONSISTENT.dnr());
        }
        feature::HOST_IDENTIFIER | feature::HOST_BEHAVIOR if r.buffer_len < feature_length(r) => {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        feature::HOST_IDENTIFIER => {
            return Ok(Answer::data(c.hostid.as_bytes().to_vec(), r.buffer_len));
        }
        feature::RESERVATION_MASK | feature::RESERVATION_PERSISTENCE => {
            drop(state);
            return Ok(Answer::result(reservation::get_feature(c, &r.sqe)?));
        }
        feature::HOST_BEHAVIOR => return Ok(Answer::data(vec![0; 512], r.buffer_len)),
        fid => state.features.get(fid).ok_or(Status::INVALID_FIELD.dnr())?,
    };
    Ok(Answer::result(value))
}

fn set_features(target: &Target, c: &Controller, r: &Request) -> Result<Answer, Status> {
    let [fid, _, _, save] = r.sqe.cdw10[0].to_le_bytes();
    if save & 0x80 != 0 {
        return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
    }
    let value = r.sqe.cdw10[1];
    if matches!(fid, feature::RESERVATION_MASK | feature::RESERVATION_PERSISTENCE)
        && !c.subsystem.config.discovery
    {
        return reservation::set_feature(c, &r.sqe).map(|()| Answer::default());
    }
    let mut state = c.state.borrow_mut();
    match fid {
        feature::ASYNC_EVENT_CONFIG => state.events.set_config(value),
        // A timer that runs cannot be turned off: NVMe/TCP relies on it (TCP, Keep Alive Model). SPDK refuses it as well.
        feature::KEEP_ALIVE_TIMER if value == 0 => return Err(Status::KEEP_ALIVE_INVALID.dnr()),
        feature::KEEP_ALIVE_TIMER => {
            let options = target.transport().ok_or(Status::INTERNAL_ERROR)?;
            let kato = value.max(options.min_kato);
            state.kato_ms = kato;
            state.keep_alive =
                KeepAlive::new(kato, connect::granularity(&options), std::time::Instant::now());
        }
        _ if c.subsystem.config.discovery => return Err(Status::INVALID_FIELD.dnr()),
        feature::NUMBER_OF_QUEUES if value & 0xffff == 0xffff || value >> 16 == 0xffff => {
            return Err(Status::INVALID_FIELD.dnr());
        }
        feature::NUMBER_OF_QUEUES => return Ok(Answer::result(queue_counts(target))),
        feature::HOST_IDENTIFIER => return Err(Status::SEQUENCE_ERROR.dnr()),
        feature::HOST_BEHAVIOR if (r.data.len() as u32) < feature_length(r) => {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        feature::HOST_BEHAVIOR => {}
        fid => state.features.set(fid, value)?,
    }
    Ok(Answer::default())
}
