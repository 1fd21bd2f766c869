//! What the simulated processes stand on: objects that answer late, or not, or that do what they were asked much later.

use super::{Mistake, World};
use crate::{
    objects::{Key, ObjectError, Objects, Precondition, Version, memory::part_of},
    seal::codec,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::{
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

/// Hands the turn back so many times.
pub struct Pause(u64);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        Poll::Pending // the scheduler polls whom it likes
    }
}

/// The next step may be much later.
pub fn pause(world: &World) -> Pause {
    Pause(world.dice(|dice| dice.below(3)))
}

/// The objects as one process sees them.
#[derive(Clone)]
pub struct Hostile {
    pub world: World,
    /// For [`Mistake::NoFloorCheck`] and [`Mistake::ReadBelowFloor`]: the floor is not seen.
    pub blind: Arc<AtomicBool>,
}

/// A write that was sent and has not arrived.
pub struct Late {
    pub key: Key,
    pub bytes: Bytes,
    pub when: Precondition,
}

fn lost() -> ObjectError {
    ObjectError::Io("no answer".into())
}

impl Hostile {
    /// What the engine answers, with the faults of this world.
    fn answer<T: Send + 'static>(&self, work: impl FnOnce(&World) -> T + Send + 'static) -> BoxFuture<'static, Result<T, ObjectError>> {
        let world = self.world.clone();
        Box::pin(async move {
            pause(&world).await;
            if world.fails(3) {
                return Err(lost());
            }
            let done = work(&world);
            pause(&world).await;
            if world.fails(2) { Err(lost()) } else { Ok(done) }
        })
    }

    fn hides(&self, key: &Key) -> bool {
        key.as_str().starts_with("floor/") && self.blind.load(Ordering::Relaxed)
    }
}

impl World {
    /// Writes, and notes which seals there are: the first object of a number is the seal.
    pub fn put(&self, key: &Key, bytes: Bytes, when: &Precondition) -> Result<Version, ObjectError> {
        let name = key.as_str();
        let any = (self.plants(Mistake::Overwrite) && name.starts_with("seal/"))
            || (self.plants(Mistake::CheckpointGoesBack) && name.starts_with("checkpoint/"))
            || (self.plants(Mistake::CursorGoesBack) && name.starts_with("cursor/"));
        let done = self.memory.put_now(key, bytes.clone(), if any { &Precondition::Any } else { when })?;
        if name.starts_with("seal/") {
            let head = super::object::decode_head(&bytes).expect("it is well formed");
            debug_assert_eq!(head.crc, codec::crc_of(&codec::encode(&head.seal)));
            self.note(|inner| {
                inner.sealed.entry(head.seal.n).or_insert((head.seal, head.crc));
            });
        }
        Ok(done)
    }
}

impl Objects for Hostile {
    fn get(&self, key: &Key) -> BoxFuture<'static, Result<Option<(Bytes, Version)>, ObjectError>> {
        let (key, hidden) = (key.clone(), self.hides(key));
        self.answer(move |world| if hidden { None } else { world.memory.get_now(&key) })
    }

    fn get_range(&self, key: &Key, range: Range<u64>) -> BoxFuture<'static, Result<Option<Bytes>, ObjectError>> {
        let key = key.clone();
        self.answer(move |world| world.memory.get_now(&key).map(|(bytes, _)| part_of(&bytes, &range)))
    }

    fn put(&self, key: &Key, bytes: Bytes, when: Precondition) -> BoxFuture<'static, Result<Version, ObjectError>> {
        let (world, key) = (self.world.clone(), key.clone());
        Box::pin(async move {
            pause(&world).await;
            if world.fails(3) {
                return Err(lost()); // it never arrived
            }
            if world.fails(4) {
                world.note(|inner| inner.late.push(Late { key, bytes, when })); // it arrives when nobody waits for it any more
                return Err(lost());
            }
            let done = world.put(&key, bytes, &when);
            pause(&world).await;
            if world.fails(4) { Err(lost()) } else { done }
        })
    }

    fn delete(&self, key: &Key) -> BoxFuture<'static, Result<(), ObjectError>> {
        let key = key.clone();
        self.answer(move |world| world.memory.delete_now(&key))
    }

    fn clear(&self, folder: &str) -> BoxFuture<'static, Result<(), ObjectError>> {
        let folder = folder.to_owned();
        self.answer(move |world| world.memory.list_now(&folder).iter().for_each(|key| world.memory.delete_now(key)))
    }

    fn list(&self, folder: &str) -> BoxFuture<'static, Result<Vec<Key>, ObjectError>> {
        let folder = folder.to_owned();
        self.answer(move |world| world.memory.list_now(&folder))
    }
}
