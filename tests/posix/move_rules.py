"""Scenarios of rename and of sticky directories. `tests.posix.scenarios` explains the language."""

from __future__ import annotations

TEXT = r"""
## rename moves any name | files
make {kind} n0
--
let ino lstat_of n0 ino
rename n0 n1
lstat_of n0 kind = ENOENT
lstat_of n1 kind,ino,nlink = {kind},$ino,1
link n1 n0
rename n1 n2
lstat_of n0 ino,nlink = $ino,2
lstat_of n2 ino,nlink = $ino,2
rename n0 n2
lstat_of n0 ino,nlink = $ino,2

## rename of a directory and of a symlink | one
make dir d
make regular f
symlink f l
--
let dir lstat_of d ino
let file lstat_of f ino
let link lstat_of l ino
rename d e
lstat_of e kind,ino = dir,$dir
rename l m
lstat_of m kind,ino = symlink,$link
stat_of m ino = $file
rename e gone/e = ENOENT

## a refused rename moves no time | all
make {kind} n0
--
mark n0 .
alice: rename n0 n1 = EACCES
moved n0 = none
moved . = none

## rename over a file takes one of its names | files
make {kind} n0
make {kind} n1
link n1 n2
--
mark n2 .
rename n0 n1
lstat_of n2 kind,nlink = {kind},1
moved n2 = c
moved . = mc

## rename over another kind | names
make regular f
make dir d
make {kind} n0
--
rename n0 d = EISDIR
rename d n0 = ENOTDIR
lstat_of n0 kind = {kind}
rename n0 f
lstat_of f kind = {kind}

## rename over a directory that is not empty | all
make dir d
make {kind} d/n0
make dir e
--
rename e d = EEXIST|ENOTEMPTY
lstat_of d/n0 kind = {kind}
remove d/n0
rename e d
lstat_of e kind = ENOENT

## rename of a directory below itself, of . and of .. | one
make dir d
make dir d/e
--
rename d d/e = EINVAL
rename d d/e/f = EINVAL
rename d/e/. f = EINVAL|EBUSY
rename d/e/.. f = EINVAL|EBUSY
rename d/e d = ENOTEMPTY|EEXIST

## a directory that moves has another parent, fresh | one
make dir a
make dir b
make dir a/d
--
lstat_of a nlink = 3
lstat_of b nlink = 2
let a lstat_of a ino
let b lstat_of b ino
lstat_of a/d/.. ino = $a
rename a/d b/d
lstat_of a nlink = 2
lstat_of b nlink = 3
lstat_of b/d/.. ino = $b
exchange b/d a
lstat_of b/d/.. ino = $b

## who may not write to a directory may not give it another parent | one
make dir a 0777
make dir b 0777
make dir a/d 0700
make regular a/f 0644
--
alice: rename a/d a/e
alice: rename a/e b/e = EACCES
alice: rename a/f b/f
lstat_of b/f kind = regular

## rename needs write permission on both sides | one
make dir a 0755 65534 65534
make dir b 0755 65534 65534
make dir c 0755
make regular a/f 0644 65534 65534
--
alice: rename a/f b/f
alice: rename b/f c/f = EACCES
chmod b 0500
alice: rename b/f a/f = EACCES
chmod b 0200
alice: rename b/f a/f = EACCES
chmod b 0700
alice: rename b/f a/f

## renameat2: not over what is there, and both at once | all
make {kind} n0
make dir d
--
rename_new n0 d = EEXIST
rename_new n0 n1
let ino lstat_of n1 ino
exchange n1 d
lstat_of d kind,ino = {kind},$ino
lstat_of n1 kind = dir
exchange d gone = ENOENT

## sticky: the owner of the directory or of the file moves it | names
make dir s 01777 65534 65534
make dir t 0755 65534 65534
make {kind} s/mine
lchown s/mine 65534 65534
make {kind} s/roots
make {kind} s/bobs
lchown s/bobs 65533 65533
--
alice: rename s/mine t/mine
alice: rename s/roots t/roots
alice: rename s/bobs t/bobs
alice: rename t/bobs s/bobs
chown s 0 0
alice: rename s/bobs t/new = EPERM|EACCES
alice: rename t/mine s/mine
alice: rename s/mine t/mine
alice: rename t/roots s/bobs = EPERM|EACCES
alice: unlink s/bobs = EPERM|EACCES
bob: unlink s/bobs
alice: unlink t/roots

## sticky directories inside sticky directories | owners
make dir s 01777 65534 65534
make dir t 0755 65534 65534
make dir s/d 0755 {kind} {kind}
make dir t/mine 0755 65534 65534
make dir s/mine 0755 65534 65534
--
alice: rename s/d t/d = EPERM|EACCES
alice: rename s/d s/e
chown s {kind} {kind}
alice: rename s/e s/d = EPERM|EACCES
alice: rmdir s/e = EPERM|EACCES
alice: rename t/mine s/e = EPERM|EACCES
alice: rename s/mine t/mine
alice: rename t/mine s/mine
alice: rmdir s/mine

## sticky and rename over somebody else's | names
make dir a 0777 65534 65534
make dir s 01777
make {kind} a/x
lchown a/x 65534 65534
make {kind} a/y
lchown a/y 65534 65534
make regular s/roots
make regular s/mine 0644 65534 65534
--
alice: rename a/x s/roots = EPERM|EACCES
lstat_of s/roots uid = 0
alice: rename a/x s/mine
chown s 65534 65534
alice: rename a/y s/roots
lstat_of s/roots kind,uid = {kind},65534
"""
