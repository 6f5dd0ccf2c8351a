<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE TS>
<TS version="2.1" language="en" sourcelanguage="en">
<context>
    <name>CollectedCard</name>
    <message numerus="yes">
        <source>With %n more judgement(s) it can also learn your taste and practise.</source>
        <translation>
            <numerusform>With %n more judgement it can also learn your taste and practise.</numerusform>
            <numerusform>With %n more judgements it can also learn your taste and practise.</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>With %n more good answer(s) it can also imitate them.</source>
        <translation>
            <numerusform>With %n more good answer it can also imitate them.</numerusform>
            <numerusform>With %n more good answers it can also imitate them.</numerusform>
        </translation>
    </message>
    <message numerus="yes">
        <source>Like or correct %n more answer(s), and your model can learn from them.</source>
        <translation>
            <numerusform>Like or correct %n more answer, and your model can learn from them.</numerusform>
            <numerusform>Like or correct %n more answers, and your model can learn from them.</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>ContextMarkRow</name>
    <message numerus="yes">
        <source>The model no longer sees the %n message(s) above.</source>
        <translation>
            <numerusform>The model no longer sees the message above.</numerusform>
            <numerusform>The model no longer sees the %n messages above.</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>ContextMeter</name>
    <message numerus="yes">
        <source>%n earlier message(s) no longer fit.</source>
        <translation>
            <numerusform>%n earlier message no longer fits.</numerusform>
            <numerusform>%n earlier messages no longer fit.</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>LearningService</name>
    <message numerus="yes">
        <source>Like or correct %n more answer(s) first.</source>
        <translation>
            <numerusform>Like or correct %n more answer first.</numerusform>
            <numerusform>Like or correct %n more answers first.</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>RunView</name>
    <message numerus="yes">
        <source>about %n minute(s) left for this stage</source>
        <translation>
            <numerusform>about %n minute left for this stage</numerusform>
            <numerusform>about %n minutes left for this stage</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>SettingsDialog</name>
    <message numerus="yes">
        <source>With every %n message(s)</source>
        <translation>
            <numerusform>With every message</numerusform>
            <numerusform>With every %n messages</numerusform>
        </translation>
    </message>
</context>
<context>
    <name>TrashNotice</name>
    <message numerus="yes">
        <source>%n conversation(s) were deleted.</source>
        <translation>
            <numerusform>%n conversation was deleted.</numerusform>
            <numerusform>%n conversations were deleted.</numerusform>
        </translation>
    </message>
</context>
</TS>
