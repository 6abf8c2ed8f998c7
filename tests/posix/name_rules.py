"""Scenarios of names: made, linked, removed. `tests.posix.scenarios` explains the language."""

from __future__ import annotations

TEXT = r"""
## a file has as many names as it was given | files
make {kind} n0
--
lstat_of n0 kind,nlink = {kind},1
link n0 n1
link n1 n2
lstat_of n0 kind,nlink = {kind},3
chmod n1 0201
lchown n1 65534 65533
lstat_of n0 kind,mode,nlink,uid,gid = {kind},0201,3,65534,65533
lstat_of n2 kind,mode,nlink,uid,gid = {kind},0201,3,65534,65533
unlink n0
lstat_of n0 kind = ENOENT
lstat_of n1 kind,mode,nlink = {kind},0201,2
unlink n2
lstat_of n1 nlink = 1
unlink n1
lstat_of n1 kind = ENOENT

## link moves the file's ctime and the directory's times, a refused one none | files
make {kind} n0
--
mark n0 .
link n0 n1
moved n0 = c
moved . = mc
lchown n0 65534 65534
mark n0 .
alice: link n0 n2 = EACCES
moved n0 = none
moved . = none

## a symlink has names of its own | one
symlink n0 n1
--
link n1 n2
lstat_of n2 kind,nlink = symlink,2
readlink n2 = n0

## link needs a file, a free name and write permission | all
make dir closed 0755
make dir free 0777 65534 65534
make regular n0 0644 65534 65534
make {kind} taken
--
link gone n2 = ENOENT
link n0 taken = EEXIST
link free n2 = EPERM
alice: link n0 closed/n2 = EACCES
alice: link n0 free/n2
lstat_of n0 nlink = 2

## link of a file whose directory cannot be searched | one
make dir d 0700
make regular d/f 0644 65534 65534
make dir free 0777
--
alice: link d/f free/f = EACCES
chmod d 0755
alice: link d/f free/f

## who makes something owns it, in the group of the process or of the directory | one
chmod . 0777
make dir g 0777
chown g 0 65531
chmod g 02777
--
alice33: mkdir d 0755
lstat_of d uid,gid,mode = 65534,65533,0755
alice33: mkdir g/d 0755
lstat_of g/d uid,gid,mode = 65534,65531,02755
alice33: mkfifo g/p 0644
lstat_of g/p uid,gid,mode = 65534,65531,0644
alice33: open g/f creat,wronly 02755
lstat_of g/f uid,gid,mode = 65534,65531,0755
alice33: symlink x g/l
lstat_of g/l uid,gid = 65534,65531
alice33: make socket s
lstat_of s uid,gid = 65534,65533

## the umask takes bits away from what is made | one
--
masked 077 mkdir d 0151
lstat_of d kind,mode = dir,0100
masked 070 mkfifo p 0345
lstat_of p kind,mode = fifo,0305
masked 0501 open f creat,wronly 0345
lstat_of f kind,mode = regular,0244
masked 077 mknod b block 0151
lstat_of b kind,mode,rdev = block,0100,1:2
masked 0777 mknod c char 0777
lstat_of c kind,mode,rdev = char,00,1:2
masked 027 mknod n none 0777
lstat_of n kind,mode = regular,0750

## what is made has the times of now, and so has its directory | all
--
mark .
make {kind} n0
newer n0 .
moved . = mc

## what is there is not made again | all
make {kind} n0
--
mkdir n0 0755 = EEXIST
mkfifo n0 0644 = EEXIST
mknod n0 block 0644 = EEXIST
mknod n0 char 0644 = EEXIST
symlink x n0 = EEXIST
open n0 creat,excl,rdonly = EEXIST
make socket n0 = EEXIST|EADDRINUSE
lstat_of n0 kind = {kind}

## devices are made by root alone, fifos by whoever may write there | one
chmod . 0777
--
alice: mknod b block 0644 = EPERM
alice: mknod c char 0644 = EPERM
alice: mknod p fifo 0644
alice: mknod n none 0644

## making needs write permission in the directory | all
make dir d 0755
--
alice: make {kind} d/n = EACCES|EPERM
chmod d 0777
mark d
alice: symlink t d/n
moved d = mc

## open makes a file of any mode, and has it open as it asked | one
--
open a creat,wronly 0
lstat_of a kind,mode = regular,00
open b creat,rdwr 0
open c creat,rdonly 0
put d text creat,excl,wronly
get d = text

## rmdir removes what is empty | one
make dir d
make dir e
--
mark .
rmdir d
lstat_of d kind = ENOENT
moved . = mc
rmdir e/. = EINVAL
rmdir e/.. = ENOTEMPTY|EEXIST
rmdir gone = ENOENT

## rmdir of what is not empty, or no directory | all
make dir d
make {kind} d/n0
make dir e 0755
make dir e/sub 0777
--
rmdir d = EEXIST|ENOTEMPTY
alice: rmdir e/sub = EACCES
lstat_of d/n0 kind = {kind}

## rmdir of no directory | names
make {kind} n0
--
rmdir n0 = ENOTDIR
unlink n0
lstat_of n0 kind = ENOENT

## a symlink holds what it was given | one
make regular n0
--
symlink n0 n1
lstat_of n1 kind = symlink
stat_of n1 kind,mode = regular,0644
unlink n0
stat_of n1 kind = ENOENT
readlink n1 = n0
lstat_of n1 size = 2
symlink {4095} long
readlink long = {4095}
symlink {4096} over = ENAMETOOLONG

## unlink moves the directory's times and the ctime of what has names left | files
make {kind} n0
link n0 n1
make dir d
make {kind} d/n0
--
mark n0
unlink n1
moved n0 = c
mark d
unlink d/n0
moved d = mc
mark n0 .
alice: unlink n0 = EACCES
moved n0 = none
moved . = none

## unlink is not for directories | one
make dir d
--
unlink d = EISDIR|EPERM
lstat_of d kind = dir
unlink gone = ENOENT

## an open file outlives its name | one
make regular n0
--
unlink_open n0 Hello = 0,Hello
lstat_of n0 kind = ENOENT
"""
