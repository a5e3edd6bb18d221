//! Arithmetic of promised I/O. A limit of 0 is no limit: such an array is promised nothing, such a budget never runs out.

use vda_proto::v1::Qos;

fn each(a: &Qos, b: &Qos, f: fn(u64, u64) -> u64) -> Qos {
    Qos {
        rw_ios_per_sec: f(a.rw_ios_per_sec, b.rw_ios_per_sec),
        rw_mbytes_per_sec: f(a.rw_mbytes_per_sec, b.rw_mbytes_per_sec),
        r_mbytes_per_sec: f(a.r_mbytes_per_sec, b.r_mbytes_per_sec),
        w_mbytes_per_sec: f(a.w_mbytes_per_sec, b.w_mbytes_per_sec),
    }
}

/// What one VD of an array with this limit is promised: its stripe's part.
pub fn of_vd(da: &Qos, stripes: u32) -> Qos {
    let by = u64::from(stripes.max(1));
    each(
        da,
        &Qos { rw_ios_per_sec: by, rw_mbytes_per_sec: by, r_mbytes_per_sec: by, w_mbytes_per_sec: by },
        u64::div_ceil,
    )
}

/// The sum of two promises.
pub fn plus(a: &Qos, b: &Qos) -> Qos {
    each(a, b, u64::saturating_add)
}

/// What is left of `a` without `b`.
pub fn minus(a: &Qos, b: &Qos) -> Qos {
    each(a, b, u64::saturating_sub)
}

/// `n` times a promise.
pub fn times(a: &Qos, n: u32) -> Qos {
    let n = u64::from(n);
    each(
        a,
        &Qos { rw_ios_per_sec: n, rw_mbytes_per_sec: n, r_mbytes_per_sec: n, w_mbytes_per_sec: n },
        u64::saturating_mul,
    )
}

/// How many more times `budget` lasts for `promise` on top of `used`.
pub fn lasts(budget: &Qos, used: &Qos, promise: &Qos) -> u64 {
    let part = |budget: u64, used: u64, promise: u64| {
        if budget == 0 || promise == 0 { u64::MAX } else { budget.saturating_sub(used) / promise }
    };
    part(budget.rw_ios_per_sec, used.rw_ios_per_sec, promise.rw_ios_per_sec)
        .min(part(budget.rw_mbytes_per_sec, used.rw_mbytes_per_sec, promise.rw_mbytes_per_sec))
        .min(part(budget.r_mbytes_per_sec, used.r_mbytes_per_sec, promise.r_mbytes_per_sec))
        .min(part(budget.w_mbytes_per_sec, used.w_mbytes_per_sec, promise.w_mbytes_per_sec))
}

/// Which parts of `budget` do not last for `more` on top of `used`, in words.
pub fn exceeded(budget: &Qos, used: &Qos, more: &Qos) -> Vec<String> {
    let part = |name: &str, budget: u64, used: u64, more: u64| {
        let fits = budget == 0 || more == 0 || used.saturating_add(more) <= budget;
        (!fits).then(|| format!("{name}: free {} < needed {more}", budget.saturating_sub(used)))
    };
    [
        part("rw_ios_per_sec", budget.rw_ios_per_sec, used.rw_ios_per_sec, more.rw_ios_per_sec),
        part("rw_mbytes_per_sec", budget.rw_mbytes_per_sec, used.rw_mbytes_per_sec, more.rw_mbytes_per_sec),
        part("r_mbytes_per_sec", budget.r_mbytes_per_sec, used.r_mbytes_per_sec, more.r_mbytes_per_sec),
        part("w_mbytes_per_sec", budget.w_mbytes_per_sec, used.w_mbytes_per_sec, more.w_mbytes_per_sec),
    ]
    .into_iter()
    .flatten()
    .collect()
}
