//! The published vectors of membership: `tests/vectors/membership_2.json`.
//!
//! `ONEBYTE_WRITE_VECTORS=1` rewrites the file, which is right only together with a new protocol version.
//! `scripts/vectors.py` recomputes it in pure Python from the documented formulas alone.

use protocol::{
    machine::MachineId,
    manifest::{RunId, combine_digests},
    member::{Admission, Floors, Member, MemberStanding, Withdrawal},
    signature::Ed25519Signer,
    version_vector::{BUCKETS, Entry, Standing, hash_bucket},
};
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn run() -> RunId {
    RunId(std::array::from_fn(|index| index as u8))
}

fn key(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first + index as u8)
}

/// A member after the withdrawals, one after the other.
fn withdrawn(sets: &[Floors]) -> Member {
    let sign = |floors: &Floors| Withdrawal::sign(&run(), key(32), floors, &Ed25519Signer::from_seed(&[7; 32]));
    let first = Member::withdrawn(sign(&sets[0]));
    sets[1..].iter().fold(first, |member, floors| member.after(&sign(floors)).unwrap_or(member))
}

fn digest(member: &Member) -> [u8; 32] {
    match member.standing() {
        MemberStanding::Withdrawn(digest) => digest,
        MemberStanding::Admitted => panic!("it is withdrawn"),
    }
}

fn withdrawals() -> Value {
    let sets: [Vec<Floors>; 4] = [
        vec![vec![]],
        vec![vec![(3, 10), (u64::MAX, 1)]],
        vec![vec![(3, 10), (5, 7)], vec![(3, 4), (9, 2)]],
        vec![vec![(1, 5), (2, 5), (3, 5)], vec![(1, 9), (2, 3), (3, 8)], vec![(2, 8), (3, 6)]],
    ];
    let row = |sets: &Vec<Floors>| {
        let messages: Vec<String> =
            sets.iter().map(|floors| hex(&Withdrawal::message(&run(), &key(32), floors))).collect();
        let member = withdrawn(sets);
        let Member::Withdrawn { floors, .. } = &member else { panic!("it is withdrawn") };
        json!({ "floors": sets, "messages": messages, "merged": floors, "digest": hex(&digest(&member)) })
    };
    Value::from(sets.iter().map(row).collect::<Vec<_>>())
}

/// Members and ledgers of two buckets, whatever buckets their names belong to.
fn vector() -> Value {
    let floors = digest(&withdrawn(&[vec![(3, 10)]]));
    let members = [(key(1), MemberStanding::Admitted), (key(2), MemberStanding::Withdrawn(floors))];
    let machine = |first, incarnation| MachineId { key: key(first), incarnation };
    let ledgers = [
        (machine(4, 1), Standing::Live { height: 300, head: key(90) }),
        (machine(4, 2), Standing::Revoked { floor: 9, height: 7, head: key(91) }),
        (machine(5, u64::MAX), Standing::Forked),
    ];
    let member = |(key, standing): &([u8; 32], MemberStanding)| {
        let (kind, digest) = match standing {
            MemberStanding::Admitted => (0, [0; 32]),
            MemberStanding::Withdrawn(digest) => (1, *digest),
        };
        json!([hex(key), kind, hex(&digest)])
    };
    let ledger = |(machine, standing): &(MachineId, Standing)| {
        let (kind, height, head, floor) = match standing {
            Standing::Live { height, head } => (0, *height, *head, 0),
            Standing::Revoked { floor, height, head } => (1, *height, *head, *floor),
            Standing::Forked => (2, 0, [0; 32], 0),
        };
        json!([hex(&machine.key), machine.incarnation, kind, height, hex(&head), floor])
    };
    let of = |members: &[(_, _)], ledgers: &[(_, _)]| {
        let members = members.iter().map(|(key, standing)| Entry::Member(*key, *standing));
        hash_bucket(members.chain(ledgers.iter().map(|(machine, standing)| Entry::Ledger(*machine, *standing))))
    };
    let buckets = [(0, 0..2, 0..0), (9, 0..1, 0..3), (255, 0..0, 1..2)];
    let mut digests = [[0; 32]; BUCKETS];
    let mut rows = Vec::new();
    for (bucket, of_members, of_ledgers) in buckets {
        let (members, ledgers) = (&members[of_members], &ledgers[of_ledgers]);
        digests[bucket] = of(members, ledgers);
        rows.push(json!({
            "bucket": bucket, "members": members.iter().map(member).collect::<Vec<_>>(),
            "ledgers": ledgers.iter().map(ledger).collect::<Vec<_>>(), "digest": hex(&digests[bucket]),
        }));
    }
    assert_eq!(of(&[], &[]), [0; 32], "an empty bucket");
    json!({ "buckets": rows, "root": hex(&combine_digests(digests)) })
}

#[test]
fn membership_equals_its_published_vectors() {
    let admission = hex(&Admission::message(&run(), &key(32)));
    let vectors = json!({
        "run": hex(&run().0), "key": hex(&key(32)), "admission": admission, "withdrawals": withdrawals(),
        "version_vector": vector(),
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/membership_2.json");
    if std::env::var("ONEBYTE_WRITE_VECTORS").is_ok_and(|value| value == "1") {
        std::fs::write(path, format!("{vectors:#}\n")).expect("the vectors are writable");
    }
    let published = std::fs::read_to_string(path).expect("the vectors are there");
    assert_eq!(serde_json::from_str::<Value>(&published).expect("the vectors are JSON"), vectors);
}
