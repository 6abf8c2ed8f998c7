"""Scenarios of modes, owners, times, sizes and opening. `tests.posix.scenarios` explains the language."""

from __future__ import annotations

TEXT = r"""
## chmod changes the mode, through a symlink too | modes
make {kind} n0
symlink n0 n1
--
let link lstat_of n1 mode
chmod n0 0111
stat_of n0 mode = 0111
chmod n1 0222
stat_of n1 mode = 0222
stat_of n0 mode = 0222
lstat_of n1 mode = $link
chmod n0 01621
stat_of n0 mode = 01621
chmod n1 07777
stat_of n0 mode = 07777

## chmod moves ctime, and a refused one nothing | modes
make {kind} n0
--
mark n0
chmod n0 0111
moved n0 = c
mark n0
alice: chmod n0 0321 = EPERM
moved n0 = none
stat_of n0 mode = 0111

## the owner may set the sticky bit of a file on Linux | files
make {kind} n0 0640 65534 65534
symlink n0 n1
--
alice: chmod n0 01644
stat_of n0 mode = 01644
alice: chmod n1 01640
stat_of n0 mode = 01640

## chmod by who is not in the group takes set-group-id away | one
make regular n0 0755 65534 65534
--
alice: chmod n0 02755
stat_of n0 mode = 02755
alice: chmod n0 0755
alice33: chmod n0 02755
stat_of n0 mode = 0755

## only the owner and root change a mode | modes
make {kind} n0 0644 65534 65534
--
alice: chmod n0 0600
bob: chmod n0 0666 = EPERM
bob34: chmod n0 0666 = EPERM
lstat_of n0 mode = 0600
chmod n0 0640
lstat_of n0 mode = 0640

## root changes any owner, of the file or of the symlink | all
make {kind} n0
symlink n0 n1
--
lchown n0 123 456
lstat_of n0 uid,gid = 123,456
lchown n0 0 0
lstat_of n0 uid,gid = 0,0
lchown n1 7 8
lstat_of n1 uid,gid = 7,8
lstat_of n0 uid,gid = 0,0

## chown follows a symlink | modes
make {kind} n0
symlink n0 n1
--
chown n1 123 456
stat_of n0 uid,gid = 123,456
lstat_of n1 uid,gid = 0,0

## an owner gives the file to a group of his | all
make {kind} n0
lchown n0 65534 65533
--
alice32: lchown n0 -1 65532
lstat_of n0 uid,gid = 65534,65532
alice32: lchown n0 65534 65531
lstat_of n0 uid,gid = 65534,65531
alice32: lchown n0 -1 65534 = EPERM
alice32: lchown n0 65533 -1 = EPERM
bob: lchown n0 -1 65533 = EPERM
lstat_of n0 uid,gid = 65534,65531

## whoever may change nothing about the owner | all
make {kind} n0
--
alice: lchown n0 -1 -1
lstat_of n0 uid,gid = 0,0
mark n0
alice: lchown n0 65534 -1 = EPERM
alice: lchown n0 -1 65534 = EPERM
alice: lchown n0 65534 65534 = EPERM
moved n0 = none
lstat_of n0 uid,gid = 0,0

## chown by root may keep the set-id bits | modes
make {kind} n0 06555 65534 65533
--
chown n0 65532 65531
stat_of n0 mode,uid,gid = 06555,65532,65531|0555,65532,65531

## chown by the owner takes the set-id bits of what is no directory away | files
make {kind} n0 06555 65534 65533
--
alice_both: chown n0 65534 65532
stat_of n0 mode,uid,gid = 0555,65534,65532
chmod n0 06555
alice_both: chown n0 -1 65533
stat_of n0 mode,uid,gid = 0555,65534,65533
chmod n0 06555
alice_both: chown n0 -1 -1
stat_of n0 mode,uid,gid = 06555,65534,65533|0555,65534,65533

## chown of neither by who is no owner leaves set-id bits alone | files
make {kind} n0 06555
--
alice: chown n0 -1 -1 = EPERM
stat_of n0 mode = 06555

## chown moves ctime | all
make {kind} n0
--
mark n0
lchown n0 65534 65533
moved n0 = c
mark n0
alice32: lchown n0 65534 65532
moved n0 = c

## open of what is there moves nothing | one
make regular n0
--
mark . n0
open n0 creat,rdonly
moved . = none
moved n0 = none

## O_TRUNC empties | one
put n0 test
--
stat_of n0 size = 4
mark n0
open n0 wronly,trunc
moved n0 = mc
stat_of n0 size = 0
put n0 again
open n0 rdonly,trunc
stat_of n0 size = 0
put n0 again creat,rdwr,append
put n0 more creat,wronly,append
get n0 = againmore

## who may not write may not empty | one
put n0 test
--
mark n0
alice: open n0 rdonly,trunc = EACCES
alice: open n0 wronly,trunc = EACCES
moved n0 = none
get n0 = test

## the owner's, the group's and the others' bits each count for themselves | one
make regular n0 0644 65534 65534
--
alice: chmod n0 0477
alice: open n0 rdonly
alice: open n0 wronly = EACCES
alice: open n0 rdwr = EACCES
alice: chmod n0 0747
bob34: open n0 rdonly
bob34: open n0 wronly = EACCES
alice: chmod n0 0774
bob: open n0 rdonly
bob: open n0 rdwr = EACCES
alice: chmod n0 0277
alice: open n0 rdonly = EACCES
alice: open n0 wronly
alice: chmod n0 0727
bob34: open n0 rdonly = EACCES
bob34: open n0 wronly
alice: chmod n0 0770
bob: open n0 rdonly = EACCES
bob: open n0 wronly = EACCES
alice: chmod n0 0060
alice: open n0 rdonly = EACCES
bob34: open n0 rdwr
alice: chmod n0 0006
bob: open n0 rdwr
open n0 rdwr

## fifos ask for the same bits | one
make fifo n0 0644 65534 65534
--
open n0 wronly,nonblock = ENXIO
alice: open n0 rdwr
bob: open n0 rdonly,nonblock
bob: open n0 rdwr = EACCES
chmod n0 0277
alice: open n0 rdonly,nonblock = EACCES
alice: open n0 wronly,nonblock = ENXIO

## directories are opened for reading alone | one
make dir d 0755 65534 65534
--
open d rdonly
open d wronly = EISDIR
open d rdwr = EISDIR
open d rdonly,trunc = EISDIR
open d rdonly,creat = EISDIR
open d rdonly,directory
alice: chmod d 0277
alice: open d rdonly = EACCES
bob: open d rdonly

## sockets are not opened, links not followed where that is asked | one
make socket s
symlink gone l
make regular f
symlink f m
--
open s rdonly = ENXIO
open s wronly = ENXIO
open l rdonly,nofollow = ELOOP
open l rdonly,creat,nofollow = ELOOP
open m rdwr,nofollow = ELOOP
open f rdwr,nofollow
open f rdonly,directory = ENOTDIR
open m rdonly,directory = ENOTDIR
open l creat,excl,wronly = EEXIST
lstat_of gone kind = ENOENT
open l creat,wronly
lstat_of gone kind = regular

## files beyond 2 GiB | one
make regular n0
--
patch n0 rdwr 2147483649 data = 0644
lstat_of n0 size = 2147483653
get n0 2147483649 = data
get n0 0 3 = \0\0\0

## truncate moves mtime and ctime, a refused one nothing | one
make regular n0
--
mark n0
truncate n0 123
moved n0 = mc
mark n0
alice: truncate n0 5 = EACCES
alice: ftruncate n0 rdwr 5 = EACCES
moved n0 = none
ftruncate n0 wronly 7
moved n0 = mc
lstat_of n0 size = 7

## what is larger than a file can be changes nothing | one
put n0 text
--
truncate n0 999999999999999 = EFBIG
ftruncate n0 rdwr 9223372036854775807 = EFBIG
lstat_of n0 size = 4
truncate n0 17592186040320
lstat_of n0 size = 17592186040320
truncate n0 4
get n0 = text

## truncate of no file | one
make dir d
make fifo p
--
truncate d 1 = EISDIR
truncate p 1 = EINVAL

## a mode counts when the file is opened | one
chmod . 0777
--
alice: allocate n0 creat,rdwr 0 1
alice: open n1 creat,rdwr 0
alice: truncate n1 5 = EACCES
lstat_of n0 size = 1

## who is no owner takes the set-id bits away by writing | one
make regular n0 04777
make regular n1 02777
make regular n2 06777
make regular n3 06777
--
alice: patch n0 wronly 0 x = 0777
alice: patch n1 rdwr 0 x = 0777
alice: patch n2 rdwr 0 x = 0777
stat_of n2 mode = 0777
alice: truncate n3 5
stat_of n3 mode = 0777

## times are set on every kind | all
make {kind} n0
--
lutime n0 1900000000000000000 1950000000000000000
lstat_of n0 atime,mtime = 1900000000000000000,1950000000000000000
lutime n0 1950000000000000000 1900000000000000000
lstat_of n0 atime,mtime = 1950000000000000000,1900000000000000000
lutime n0 omit 1
lstat_of n0 atime,mtime = 1950000000000000000,1
lutime n0 100000000100000001 omit
lstat_of n0 atime,mtime = 100000000100000001,1
mark n0
lutime n0 now now
moved n0 = amc
mark n0
lutime n0 omit omit
moved n0 = none

## times of a symlink and of what it leads to, and those after 2038 | one
make regular n0
symlink n0 n1
--
utime n0 1900000000000000000 1950000000000000000
lutime n1 1960000000000000000 1970000000000000000
lstat_of n0 atime,mtime = 1900000000000000000,1950000000000000000
lstat_of n1 atime,mtime = 1960000000000000000,1970000000000000000
utime n1 2147483648000000000 4294967296000000000
lstat_of n0 atime,mtime = 2147483648000000000,4294967296000000000
lstat_of n1 mtime = 1970000000000000000

## who may set which times | one
make regular n0 0644
make regular n1 0666
make regular n2 0444 65534 65534
--
alice: utime n0 now now = EACCES
alice: utime n0 omit 5 = EPERM
alice: utime n0 5 omit = EPERM
alice: utime n0 5 6 = EPERM
alice: utime n0 now omit = EPERM
alice: utime n0 omit omit
alice: utime n1 now now
alice: utime n1 5 6 = EPERM
alice: utime n1 omit 6 = EPERM
alice: utime n2 now now
alice: utime n2 5 6
utime n2 7 8
lstat_of n2 atime,mtime = 7,8

## access asks for the real user | one
make regular n0 0640 65534 65533
--
access n0 rw = True
access n0 x = False
alice: access n0 rw = True
bob: access n0 r = True
bob: access n0 w = False
carol: access n0 r = False

## truncate makes longer and shorter | one
make regular n0
put n1 some_bytes
--
truncate n0 1234567
lstat_of n0 size = 1234567
truncate n0 567
lstat_of n0 size = 567
truncate n1 20
get n1 = some_bytes\0\0\0\0\0\0\0\0\0\0
truncate n1 4
get n1 = some
truncate n1 -1 = EINVAL
ftruncate n1 rdwr -1 = EINVAL
ftruncate n1 wronly -999999 = EINVAL
ftruncate n1 rdonly 3 = EINVAL|EBADF
ftruncate n1 rdwr 6
get n1 = some\0\0

## posix_fallocate makes longer, never shorter | one
make regular n0
put n1 text
--
mark n0
allocate n0 rdwr 0 567
moved n0 = mc
lstat_of n0 size = 567
allocate n1 rdwr 20000 3456
lstat_of n1 size = 23456
get n1 0 4 = text
allocate n1 rdwr 0 10
lstat_of n1 size = 23456
mark n1
allocate n1 wronly 0 0 = EINVAL
moved n1 = none
"""
