//! A file system in memory that forgets what was not synced, for tests of everything that promises durability.
//!
//! ```text
//! let fs = SimFs::new();                       // cheap clone, all clones are the same disk
//! … write, sync, sync_dir …
//! let after = fs.crash(seed, CrashMode::Tear); // what a machine finds that lost power just now; `fs` lives on as a ghost
//! ```
//!
//! What it models: bytes count as durable after [`File::sync`], names after [`Fs::sync_dir`] (changes of one folder survive in
//! order, as with a journal); a power cut keeps any subset of the unsynced 512-byte sectors; a failed sync marks the pages
//! clean, so that they still read well and a later sync does not write them (as Linux does); a full disk writes what fits,
//! then answers `StorageFull`; any kind of [`Call`] fails on demand, at any index ([`SimFs::fail`]). Folders are durable at once.
//! What it does not: reordering across a sync, sparse files.
//!
//! Deterministic: the same calls and seeds give the same disk.

use super::{File, Fs, Space};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A small random generator, the same on every machine and in every version (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.roll() % n }
    }

    /// True `percent` times out of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What survives of the writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    Lose,
    /// Everything: only the process died, the kernel lives and writes back later.
    Keep,
    /// Any subset of sectors, and of the changes of names any prefix per folder: power was cut.
    Tear,
}

type Page = Option<Arc<[u8; PAGE]>>; // None reads as zeros

#[derive(Clone, Default)]
struct Content {
    pages: Vec<Page>,
    len: u64,
}

impl Content {
    fn byte_range(&self, into: &mut [u8], offset: u64) {
        let mut done = 0;
        while done < into.len() {
            let at = offset as usize + done;
            let (page, within) = (at / PAGE, at % PAGE);
            let n = (PAGE - within).min(into.len() - done);
            match self.pages.get(page).and_then(Option::as_ref) {
                Some(bytes) => into[done..done + n].copy_from_slice(&bytes[within..within + n]),
                None => into[done..done + n].fill(0),
            }
            done += n;
        }
    }

    fn all(&self) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        self.byte_range(&mut out, 0);
        out
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset + bytes.len() as u64;
        self.len = self.len.max(end);
        let pages = (self.len as usize).div_ceil(PAGE);
        if self.pages.len() < pages {
            self.pages.resize(pages, None);
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let (page, within) = (at / PAGE, at % PAGE);
            let n = (PAGE - within).min(bytes.len() - done);
            let piece = &bytes[done..done + n];
            done += n;
            if self.pages[page].is_none() && *piece == [0; PAGE][..n] {
                continue;
            }
            let slot = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(slot)[within..within + n].copy_from_slice(piece);
        }
    }
}

#[derive(Default)]
struct Inode {
    live: Content,
    durable: Content,
    dirty: BTreeSet<usize>,   // pages that the next sync writes
    dropped: BTreeSet<usize>, // pages that a failed sync marked clean: they read well and are not durable
}

impl Inode {
    fn durable_from(content: Content) -> Self {
        Self {
            durable: content.clone(),
            live: content,
            ..Self::default()
        }
    }

    fn sync(&mut self) {
        let pages = self.live.pages.len();
        self.durable.pages.resize(pages.max(self.durable.pages.len()), None);
        self.durable.len = self.live.len;
        for page in std::mem::take(&mut self.dirty) {
            self.durable.pages[page] = self.live.pages[page].clone();
        }
    }

    /// What a crash leaves of it.
    fn after(&self, dice: &mut Dice, mode: CrashMode) -> Content {
        match mode {
            CrashMode::Keep => return self.live.clone(),
            CrashMode::Lose => return self.durable.clone(),
            CrashMode::Tear => {}
        }
        let mut out = self.durable.clone();
        if self.live.len > out.len && dice.chance(50) {
            out.len = self.live.len;
            out.pages.resize((out.len as usize).div_ceil(PAGE), None);
        }
        let pages = out.pages.len();
        for page in self.dirty.union(&self.dropped).copied().filter(|page| *page < pages) {
            let fate = dice.below(3);
            if fate == 0 {
                continue;
            }
            if fate == 1 {
                out.pages[page] = self.live.pages[page].clone();
                continue;
            }
            let (mut new, mut kept) = ([0; PAGE], [0; PAGE]);
            self.live.byte_range(&mut new, (page * PAGE) as u64);
            out.byte_range(&mut kept, (page * PAGE) as u64);
            for sector in (0..PAGE).step_by(SECTOR).filter(|_| dice.chance(50)) {
                kept[sector..sector + SECTOR].copy_from_slice(&new[sector..sector + SECTOR]);
            }
            out.pages[page] = Some(Arc::new(kept));
        }
        out
    }
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, u64),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            Self::Unlink(path) => drop(names.remove(path)),
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// A kind of call that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Fs::create`].
    Create,
    /// [`File::write_at`].
    Write,
    /// [`File::sync`].
    Sync,
    /// [`Fs::rename`].
    Rename,
    /// [`Fs::remove`].
    Remove,
    /// [`Fs::sync_dir`].
    SyncDir,
    /// [`File::read_at`] and [`Fs::map`].
    Read,
}

impl Call {
    /// Every kind.
    pub const ALL: [Self; 7] = [Self::Create, Self::Write, Self::Sync, Self::Rename, Self::Remove, Self::SyncDir, Self::Read];
}

/// How calls of one kind fail: `count` of them, after letting `after` pass.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Calls that still work.
    pub after: usize,
    /// Calls that then fail.
    pub count: usize,
    /// With which error.
    pub error: io::ErrorKind,
    /// Eighths of its bytes that a failing write has written.
    pub kept: usize,
}

impl Fault {
    /// One input/output error that leaves a write half done.
    pub fn once(after: usize) -> Self {
        Self {
            after,
            count: 1,
            error: io::ErrorKind::Other,
            kept: 4,
        }
    }
}

/// The calls of one kind: how many there were, and which fail.
#[derive(Clone, Copy, Default)]
struct Script {
    calls: usize,
    fault: Option<Fault>,
}

impl Script {
    /// Counts a call; the fault if it strikes.
    fn strikes(&mut self) -> Option<Fault> {
        self.calls += 1;
        let fault = self.fault.as_mut()?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let struck = *fault;
        fault.count -= 1;
        if fault.count == 0 {
            self.fault = None;
        }
        Some(struck)
    }
}

/// What a struck call answers.
fn struck(call: Call, fault: Fault) -> io::Error {
    io::Error::new(fault.error, format!("simulated error of {call:?}"))
}

struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    changes: BTreeMap<PathBuf, Vec<NameChange>>, // by folder, not yet durable
    dirs: BTreeSet<PathBuf>,
    capacity: u64,
    scripts: [Script; Call::ALL.len()],
    power: Option<usize>, // changing operations left before everything fails
    syncs_held: bool,
    syncs_waiting: usize,
    syncs: u64,
}

impl State {
    fn allocated(&self) -> u64 {
        let inodes: BTreeSet<_> = self.names.values().collect();
        inodes.into_iter().map(|i| (self.inodes[i].live.pages.len() * PAGE) as u64).sum()
    }

    /// Counts a changing operation; an error once power is off.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.power {
            Some(0) => Err(io::Error::other("power is off")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Counts a call, which fails if it is struck.
    fn call(&mut self, call: Call) -> io::Result<()> {
        self.scripts[call as usize].strikes().map_or(Ok(()), |fault| Err(struck(call, fault)))
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn renamed(&mut self, dir: &Path, change: NameChange) {
        change.apply(&mut self.names);
        self.changes.entry(dir.to_owned()).or_default().push(change);
    }
}

/// The simulated file system. Clones share the disk.
#[derive(Clone)]
pub struct SimFs {
    state: Arc<(Mutex<State>, Condvar)>,
}

struct SimFile {
    fs: SimFs,
    inode: u64,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

impl SimFs {
    /// An empty disk of 1 TiB.
    pub fn new() -> Self {
        Self::from_state(BTreeMap::new(), BTreeMap::new(), BTreeSet::new(), 1 << 40)
    }

    fn from_state(inodes: BTreeMap<u64, Inode>, names: BTreeMap<PathBuf, u64>, dirs: BTreeSet<PathBuf>, capacity: u64) -> Self {
        let state = State {
            next_inode: inodes.keys().next_back().map_or(1, |last| last + 1),
            inodes,
            durable_names: names.clone(),
            names,
            changes: BTreeMap::new(),
            dirs,
            capacity,
            scripts: Default::default(),
            power: None,
            syncs_held: false,
            syncs_waiting: 0,
            syncs: 0,
        };
        Self {
            state: Arc::new((Mutex::new(state), Condvar::new())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().expect("no panic happens while the disk is locked")
    }

    /// The disk as it is found after a crash at this moment. Nothing done to `self` later touches it, and nobody waits for
    /// a held sync there. Faults are not inherited, the capacity is.
    pub fn crash(&self, seed: u64, mode: CrashMode) -> SimFs {
        let state = self.lock();
        let mut dice = Dice::new(seed);
        let names = match mode {
            CrashMode::Keep => state.names.clone(),
            CrashMode::Lose => state.durable_names.clone(),
            CrashMode::Tear => {
                let mut names = state.durable_names.clone();
                for changes in state.changes.values() {
                    let kept = dice.below(changes.len() as u64 + 1) as usize;
                    changes[..kept].iter().for_each(|change| change.apply(&mut names));
                }
                names
            }
        };
        let mut inodes = BTreeMap::new();
        for inode in names.values() {
            let after = state.inodes[inode].after(&mut dice, mode);
            inodes.insert(*inode, Inode::durable_from(after));
        }
        Self::from_state(inodes, names, state.dirs.clone(), state.capacity)
    }

    /// From now on calls of this kind fail as `fault` says, instead of as was said before. A file whose sync failed stays readable, is not
    /// durable, and a later sync does not write it; other calls that fail have no effect, but for [`Fault::kept`].
    pub fn fail(&self, call: Call, fault: Fault) {
        self.lock().scripts[call as usize].fault = (fault.count > 0).then_some(fault);
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.lock().scripts.iter_mut().for_each(|script| script.fault = None);
    }

    /// How many calls of this kind there were, failed ones included.
    pub fn calls(&self, call: Call) -> usize {
        self.lock().scripts[call as usize].calls
    }

    /// After `after` more syncs of files, `count` syncs fail.
    pub fn fail_syncs(&self, after: usize, count: usize) {
        self.fail(Call::Sync, Fault { count, ..Fault::once(after) });
    }

    /// After `after` more writes, `count` writes fail half-way.
    pub fn fail_writes(&self, after: usize, count: usize) {
        self.fail(Call::Write, Fault { count, ..Fault::once(after) });
    }

    /// After `operations` more changes (writes, syncs, creations, renames, deletions) every change fails without effect, for
    /// ever: then [`SimFs::crash`] shows the disk of that moment.
    pub fn power_off_after(&self, operations: usize) {
        self.lock().power = Some(operations);
    }

    /// False once changes fail for ever.
    pub fn has_power(&self) -> bool {
        self.lock().power != Some(0)
    }

    /// Size of the volume, bytes; may be changed at any time. Files use whole 4 KiB pages; names are free.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.lock().allocated()
    }

    /// From now on a sync of a file blocks its caller until [`SimFs::release_syncs`].
    pub fn hold_syncs(&self) {
        self.lock().syncs_held = true;
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.lock().syncs_held = false;
        self.state.1.notify_all();
    }

    /// Blocks until a sync is held back (see [`SimFs::hold_syncs`]).
    pub fn wait_for_held_sync(&self) {
        let mut state = self.lock();
        while state.syncs_waiting == 0 {
            state = self.state.1.wait(state).expect("no panic happens while the disk is locked");
        }
    }

    /// Syncs of files that succeeded so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Every file, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// The bytes of a file as a reader sees them.
    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.lock();
        let inode = state.find(path).expect("the file exists");
        state.inodes[&inode].live.all()
    }

    /// Replaces the bytes of a file, durably, as rot or a person with an editor does. Makes the file if it is not there.
    pub fn set_bytes(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.lock();
        let mut content = Content::default();
        content.write(bytes, 0);
        let inode = state.find(path).unwrap_or_else(|_| {
            state.next_inode += 1;
            state.next_inode
        });
        state.inodes.insert(inode, Inode::durable_from(content));
        state.names.insert(path.to_owned(), inode);
        state.durable_names.insert(path.to_owned(), inode);
    }

    /// Flips bits of one byte, durably.
    pub fn flip(&self, path: &Path, offset: u64, bits: u8) {
        let mut bytes = self.bytes(path);
        bytes[offset as usize] ^= bits;
        self.set_bytes(path, &bytes);
    }

    /// Cuts a file short, durably.
    pub fn truncate(&self, path: &Path, len: u64) {
        let mut bytes = self.bytes(path);
        bytes.truncate(len as usize);
        self.set_bytes(path, &bytes);
    }
}

impl File for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.fs.lock();
        state.call(Call::Read)?;
        let content = &state.inodes[&self.inode].live;
        if offset.saturating_add(into.len() as u64) > content.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.byte_range(into, offset);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.fs.lock();
        state.change()?;
        let mut fits = bytes;
        let mut outcome = Ok(());
        if let Some(fault) = state.scripts[Call::Write as usize].strikes() {
            fits = &bytes[..bytes.len() * fault.kept / 8];
            outcome = Err(struck(Call::Write, fault));
        }
        let room = state.capacity.saturating_sub(state.allocated());
        let inode = state.inodes.get_mut(&self.inode).expect("an inode lives as long as its file is open");
        let limit = (inode.live.pages.len() * PAGE) as u64 + room / PAGE as u64 * PAGE as u64;
        if offset + fits.len() as u64 > limit {
            fits = &fits[..limit.saturating_sub(offset) as usize];
            outcome = Err(io::ErrorKind::StorageFull.into());
        }
        if !fits.is_empty() {
            inode.live.write(fits, offset);
            for page in offset as usize / PAGE..=(offset as usize + fits.len() - 1) / PAGE {
                inode.dirty.insert(page);
                inode.dropped.remove(&page);
            }
        }
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.fs.lock();
        state.change()?;
        if state.syncs_held {
            state.syncs_waiting += 1;
            self.fs.state.1.notify_all();
            while state.syncs_held {
                state = self.fs.state.1.wait(state).expect("no panic happens while the disk is locked");
            }
            state.syncs_waiting -= 1;
        }
        let fails = state.call(Call::Sync);
        let inode = state.inodes.get_mut(&self.inode).expect("an inode lives as long as its file is open");
        if fails.is_err() {
            let mut dirty = std::mem::take(&mut inode.dirty);
            inode.dropped.append(&mut dirty);
            return fails;
        }
        inode.sync();
        state.syncs += 1;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.lock().inodes[&self.inode].live.len)
    }
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        state.change()?;
        state.call(Call::Create)?;
        if !state.dirs.contains(&parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.next_inode += 1;
        let inode = state.next_inode;
        state.inodes.insert(inode, Inode::default());
        state.renamed(&parent(path), NameChange::Link(path.to_owned(), inode));
        drop(state);
        Ok(Arc::new(SimFile { fs: self.clone(), inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let inode = self.lock().find(path)?;
        Ok(Arc::new(SimFile { fs: self.clone(), inode }))
    }

    fn map(&self, path: &Path) -> io::Result<Bytes> {
        let mut state = self.lock();
        state.call(Call::Read)?;
        let inode = state.find(path)?;
        Ok(Bytes::from(state.inodes[&inode].live.all()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        state.call(Call::Rename)?;
        let inode = state.find(from)?;
        state.renamed(&parent(to), NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        state.find(path)?;
        state.call(Call::Remove)?;
        state.renamed(&parent(path), NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().chain(&state.dirs).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<String> = inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        Ok(names.into_iter().collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        state.call(Call::SyncDir)?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let state = &mut *state;
        for change in state.changes.remove(dir).unwrap_or_default() {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.lock();
        Ok(Space {
            available: state.capacity.saturating_sub(state.allocated()),
            total: state.capacity,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/d";

    fn disk() -> SimFs {
        let fs = SimFs::new();
        fs.create_dir(Path::new(DIR)).unwrap();
        fs
    }

    fn path(name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    #[test]
    fn only_synced_bytes_and_names_survive() {
        let fs = disk();
        let a = fs.create(&path("a")).unwrap();
        a.write_at(b"one", 0).unwrap();
        a.sync().unwrap();
        assert!(fs.crash(1, CrashMode::Lose).paths().is_empty(), "the name was not synced");
        fs.sync_dir(Path::new(DIR)).unwrap();
        a.write_at(b"two", 3).unwrap();
        assert_eq!(fs.crash(1, CrashMode::Lose).bytes(&path("a")), b"one");
        assert_eq!(fs.crash(1, CrashMode::Keep).bytes(&path("a")), b"onetwo");
        assert_eq!(fs.bytes(&path("a")), b"onetwo");
    }

    #[test]
    fn a_torn_crash_mixes_sectors_and_repeats_by_seed() {
        let fs = disk();
        let a = fs.create(&path("a")).unwrap();
        a.write_at(&[0; 4 * PAGE], 0).unwrap();
        a.sync().unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
        a.write_at(&[7; 4 * PAGE], 0).unwrap();
        let seen: BTreeSet<Vec<u8>> = (0..50).map(|seed| fs.crash(seed, CrashMode::Tear).bytes(&path("a"))).collect();
        assert!(seen.len() > 20);
        assert!(
            seen.iter()
                .all(|bytes| bytes.chunks(SECTOR).all(|sector| sector.iter().all(|b| *b == sector[0])))
        );
        assert_eq!(fs.crash(9, CrashMode::Tear).bytes(&path("a")), fs.crash(9, CrashMode::Tear).bytes(&path("a")));
    }

    #[test]
    fn a_failed_sync_drops_pages_that_a_later_sync_does_not_bring_back() {
        let fs = disk();
        let a = fs.create(&path("a")).unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
        a.write_at(&[1; PAGE], 0).unwrap();
        fs.fail_syncs(0, 1);
        assert!(a.sync().is_err());
        a.write_at(&[2; PAGE], PAGE as u64).unwrap();
        a.sync().unwrap();
        assert_eq!(fs.bytes(&path("a"))[0], 1, "it still reads well");
        let after = fs.crash(1, CrashMode::Lose).bytes(&path("a"));
        assert_eq!((after[0], after[PAGE]), (0, 2));
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_room_comes_back() {
        let fs = disk();
        fs.set_capacity(2 * PAGE as u64);
        let a = fs.create(&path("a")).unwrap();
        assert_eq!(a.write_at(&[1; 3 * PAGE], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs.bytes(&path("a")).len(), 2 * PAGE);
        a.write_at(&[2; 2 * PAGE], 0).unwrap();
        assert_eq!(fs.space(Path::new(DIR)).unwrap().available, 0);
        fs.remove(&path("a")).unwrap();
        assert_eq!(fs.space(Path::new(DIR)).unwrap().available, 2 * PAGE as u64);
    }

    #[test]
    fn a_rename_is_atomic_and_power_stays_off() {
        let fs = disk();
        crate::fs::write_atomic(&fs, &path("m"), b"old").unwrap();
        for operations in 0.. {
            let fs = fs.crash(0, CrashMode::Keep);
            fs.power_off_after(operations);
            let done = crate::fs::write_atomic(&fs, &path("m"), b"new").is_ok();
            for seed in 0..5 {
                let found = fs.crash(seed, CrashMode::Tear).bytes(&path("m"));
                assert!(found == b"new" || !done && found == b"old");
            }
            if done {
                break;
            }
        }
    }
}
