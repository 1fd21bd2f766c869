//! The lists of the tenants as the catalog edits and reads them: keys and users.

use super::{
    Catalog, CatalogError, FOLDER, Inner, KeyText, NewKey, NewUser,
    keys::{self, ApiKey},
    normal_email,
    roster::{Item, List, Roster, Stored},
    users::{StoredUser, User},
};
use crate::{
    auth::password::PasswordHash,
    model::tenant::TenantId,
    objects::{Key, ObjectError, Precondition},
};
use smallvec::SmallVec;
use std::sync::Arc;

/// Where the catalog's objects are; sorted.
pub(super) const FOLDERS: [&str; 3] = [ApiKey::FOLDER, FOLDER, User::FOLDER];

impl Catalog {
    /// The API key of this id, of whatever tenant, from memory. Whoever uses it asks [`ApiKey::verify`], [`ApiKey::is_over`], and
    /// [`Catalog::get`] for its tenant.
    pub fn key(&self, key_id: &str) -> Option<Arc<ApiKey>> {
        self.0.keys.find(key_id).into_iter().next()
    }

    /// The account of this id, from memory.
    pub fn user(&self, tenant: &TenantId, user_id: &str) -> Option<Arc<User>> {
        self.0.users.get(tenant, user_id)
    }

    /// The accounts of this e-mail address (see [`normal_email`]) in all tenants, from memory.
    pub fn accounts(&self, email: &str) -> SmallVec<[Arc<User>; 1]> {
        self.0.users.find(email)
    }

    /// The keys of a tenant by id, as they are stored now.
    pub async fn keys(&self, tenant: &TenantId) -> Result<Arc<[Arc<ApiKey>]>, CatalogError> {
        self.0.reload_list::<ApiKey>(tenant).await?;
        Ok(self.0.keys.list(tenant))
    }

    /// The users of a tenant by id, as they are stored now.
    pub async fn users(&self, tenant: &TenantId) -> Result<Arc<[Arc<User>]>, CatalogError> {
        self.0.reload_list::<User>(tenant).await?;
        Ok(self.0.users.list(tenant))
    }

    /// Makes a key; durable when it returns. The text is not kept. Once polled it happens whole or not at all, also when it is
    /// dropped.
    pub async fn create_key(&self, tenant: &TenantId, new: NewKey) -> Result<(Arc<ApiKey>, KeyText), CatalogError> {
        let (inner, tenant) = (self.0.clone(), tenant.clone());
        super::detached(async move {
            let (stored, text) = keys::issue(new)?;
            let id = stored.key_id.clone();
            inner
                .edit::<ApiKey, _>(&tenant, |items| add(items, stored.clone(), ApiKey::WHAT, ApiKey::MOST))
                .await?;
            // Revoked by somebody else in this very moment: it was made all the same, but there is nothing to show.
            let key = inner.keys.get(&tenant, &id).ok_or(CatalogError::NotFound)?;
            Ok((key, text))
        })
        .await
    }

    /// Revokes a key, and gives what it was. In this process nobody gets in with it once this has returned, in others within
    /// seconds. Dropping as with [`Catalog::create_key`].
    pub async fn revoke_key(&self, tenant: &TenantId, key_id: &str) -> Result<Arc<ApiKey>, CatalogError> {
        let (inner, tenant, id) = (self.0.clone(), tenant.clone(), key_id.to_owned());
        super::detached(async move {
            let removed = inner.edit::<ApiKey, _>(&tenant, |items| remove(items, |item| item.key_id == id)).await?;
            ApiKey::of_stored(&tenant, removed)
                .map(Arc::new)
                .map_err(|e| CatalogError::Damaged(e.to_string().into()))
        })
        .await
    }

    /// Makes an account; `new` was checked ([`NewUser::checked`]). Durable when it returns; dropping as with
    /// [`Catalog::create_key`].
    pub async fn create_user(&self, tenant: &TenantId, new: NewUser, password: PasswordHash) -> Result<Arc<User>, CatalogError> {
        let (inner, tenant) = (self.0.clone(), tenant.clone());
        super::detached(async move {
            let stored = StoredUser::new(new, password);
            let id = stored.user_id.clone();
            let change = |items: &mut Vec<StoredUser>| match items.iter().any(|item| item.email == stored.email) {
                true => Err(CatalogError::UserExists),
                false => add(items, stored.clone(), User::WHAT, User::MOST),
            };
            inner.edit::<User, _>(&tenant, change).await?;
            inner.users.get(&tenant, &id).ok_or(CatalogError::NotFound)
        })
        .await
    }

    /// Removes an account by its id or its e-mail address, and gives what it was. Its tokens end as a revoked key does.
    /// Dropping as with [`Catalog::create_key`].
    pub async fn remove_user(&self, tenant: &TenantId, user: &str) -> Result<Arc<User>, CatalogError> {
        let (inner, tenant, user) = (self.0.clone(), tenant.clone(), user.to_owned());
        super::detached(async move {
            let email = normal_email(&user);
            let is = |item: &StoredUser| item.user_id == user || Some(&item.email) == email.as_ref();
            let removed = inner.edit::<User, _>(&tenant, |items| remove(items, is)).await?;
            User::of_stored(&tenant, removed)
                .map(Arc::new)
                .map_err(|e| CatalogError::Damaged(e.to_string().into()))
        })
        .await
    }

    /// Forgets and deletes the keys and users of a tenant that is being deleted. Can be repeated; what fails is to be.
    pub async fn drop_tenant(&self, tenant: &TenantId) -> Result<(), CatalogError> {
        let (inner, tenant) = (self.0.clone(), tenant.clone());
        super::detached(async move {
            for key in [list_of::<ApiKey>(&tenant), list_of::<User>(&tenant)] {
                inner.changes.announce(&*inner.objects, &key).await?;
                inner.objects.delete(&key).await?;
            }
            inner.keys.forget(&tenant);
            inner.users.forget(&tenant);
            Ok(())
        })
        .await
    }
}

fn add<S>(items: &mut Vec<S>, item: S, what: &'static str, most: usize) -> Result<(), CatalogError> {
    if items.len() >= most {
        return Err(CatalogError::Full { what, most });
    }
    items.push(item);
    Ok(())
}

fn remove<S>(items: &mut Vec<S>, is: impl Fn(&S) -> bool) -> Result<S, CatalogError> {
    let at = items.iter().position(is).ok_or(CatalogError::NotFound)?;
    Ok(items.remove(at))
}

/// The list of a kind that [`Inner`] holds.
pub(super) trait Held: Item {
    /// It.
    fn roster(inner: &Inner) -> &Roster<Self>;
}

impl Held for ApiKey {
    fn roster(inner: &Inner) -> &Roster<Self> {
        &inner.keys
    }
}

impl Held for User {
    fn roster(inner: &Inner) -> &Roster<Self> {
        &inner.users
    }
}

impl Inner {
    /// Changes a list: on what is stored, again if somebody else was faster. A refused change writes nothing.
    async fn edit<T: Held, R>(&self, tenant: &TenantId, change: impl Fn(&mut Vec<T::Stored>) -> Result<R, CatalogError>) -> Result<R, CatalogError> {
        let key = list_of::<T>(tenant);
        loop {
            if !self.tenants.contains_key(tenant) {
                return Err(CatalogError::NotFound);
            }
            let (mut list, when) = match self.objects.get(&key).await? {
                Some((bytes, version)) => {
                    let list = Stored::<T::Stored>::decode(&bytes).map_err(|e| CatalogError::Damaged(e.into()))?;
                    (list, Precondition::Version(version))
                }
                None => (Stored::empty(), Precondition::Absent),
            };
            let done = change(&mut list.items)?;
            list.revision += 1;
            // Before it is written: what this version does not understand it must not write again.
            let known = List::of_stored(tenant, &list).map_err(|e| CatalogError::Damaged(e.to_string().into()))?;
            match self.write(&key, list.encode().into(), when).await {
                Err(CatalogError::Unavailable(ObjectError::Conflict)) => {} // once more, on top of theirs
                Err(error) => return Err(error),
                Ok(()) => {
                    // It may have been deleted meanwhile, perhaps by another process, and whoever deletes its lists may have been
                    // here before.
                    self.reload(&super::key_of(tenant)).await?;
                    if !self.tenants.contains_key(tenant) {
                        self.objects.delete(&key).await?;
                        return Err(CatalogError::NotFound);
                    }
                    T::roster(self).remember(tenant, known);
                    return Ok(done);
                }
            }
        }
    }

    async fn reload_list<T: Held>(&self, tenant: &TenantId) -> Result<(), CatalogError> {
        let key = list_of::<T>(tenant);
        self.reload(&key).await?;
        match self.damaged.contains_key(&key) {
            true => Err(CatalogError::Damaged(format!("`{key}`").into())),
            false => Ok(()),
        }
    }

    /// Reads an object into memory. One that cannot be understood is noted, and is no error.
    pub(super) async fn reload(&self, key: &Key) -> Result<(), ObjectError> {
        let bytes = self.objects.get(key).await?.map(|(bytes, _)| bytes);
        let folder = key.as_str().strip_suffix(key.file_name()).unwrap_or_default().trim_end_matches('/');
        let taken = match (folder, &bytes) {
            (FOLDER, Some(bytes)) => self.take_tenant(key, bytes),
            (ApiKey::FOLDER, bytes) => self.take_list::<ApiKey>(key, bytes.as_deref()),
            (User::FOLDER, bytes) => self.take_list::<User>(key, bytes.as_deref()),
            _ => Ok(()),
        };
        match taken {
            Ok(()) => drop(self.damaged.remove(key)),
            Err(error) if self.damaged.insert(key.clone(), ()).is_none() => {
                tracing::error!(object = %key, error, "what is in the object is unknown until it is restored");
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn take_list<T: Held>(&self, key: &Key, bytes: Option<&[u8]>) -> Result<(), String> {
        let tenant = key.file_name().strip_suffix(".json").and_then(|name| TenantId::parse(name).ok());
        let tenant = tenant.ok_or("its name is no tenant's")?;
        let roster = T::roster(self);
        let Some(bytes) = bytes else {
            // Lists go only with their tenant. Of one that is there the list is about to be made, by somebody in this process.
            if !self.tenants.contains_key(&tenant) {
                roster.forget(&tenant);
            }
            return Ok(());
        };
        let taken = Stored::decode(bytes).and_then(|list| List::of_stored(&tenant, &list).map_err(|e| e.to_string()));
        match taken {
            Ok(list) => {
                roster.remember(&tenant, list);
                Ok(())
            }
            Err(error) => {
                roster.forget(&tenant); // whom it revokes cannot be known
                Err(error)
            }
        }
    }

    /// The objects of all lists that memory has.
    pub(super) fn known(&self) -> Vec<Key> {
        let keys = self.keys.tenants();
        let users = self.users.tenants();
        keys.iter().map(list_of::<ApiKey>).chain(users.iter().map(list_of::<User>)).collect()
    }
}

fn list_of<T: Item>(tenant: &TenantId) -> Key {
    Key::parse(&format!("{}/{tenant}.json", T::FOLDER)).expect("a tenant id is made of what a key may hold")
}
