# What the role of maascert may do in Vault: keep private keys below one path of a KV store of version 2, and nothing else.
#   vault policy write maascert policy.hcl
# secret is the mount and maascert the path, as in store.seal.vault. A token may look at, renew and revoke itself by Vault's own
# policy "default", which every role has unless it was taken away.

# Keys are written once (check-and-set) and read.
path "secret/data/maascert/*" {
  capabilities = ["create", "update", "read"]
}

# They are listed, and removed with all that is known of them.
path "secret/metadata/maascert/*" {
  capabilities = ["list", "read", "delete"]
}
